"""Logs: JSON for machines or a readable form for terminals, everything through one pipe to stderr.

Owns how a log line looks, and that it holds no secret. Audio and text are never logged; callers give ids, sizes and
times only.
"""

import json
import logging
import sys
from collections.abc import Iterable
from typing import TextIO

import structlog
from structlog.typing import Processor

_OURS = ("asr_service", "uvicorn")
_TALKATIVE = {"python_multipart": logging.ERROR, "httpx": logging.WARNING}
"""Libraries that write bytes of bodies and whole addresses, and from which level on they do not."""
_MIN_SECRET_CHARACTERS = 4


def configure(level: str, log_format: str, stream: TextIO | None = None, *, secrets: Iterable[str] = ()) -> None:
    """Send structlog's, the standard library's (uvicorn's among them) and Python's warnings to `stream` (stderr).

    `level`: debug, info, warning or error; of libraries, `debug` shows no more than `info` does, since some of them
    write what passes through their hands. `log_format`: json, console, or auto (console on a terminal, else JSON).
    `secrets` never appear: whatever message or traceback holds one, it is masked.
    """
    stream = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # Tracebacks without local variables, which could hold audio, text or credentials.
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    last: list[Processor] = (
        [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer(ensure_ascii=False)]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        ]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _Formatter(
            _Masks(secrets),
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(chosen, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(chosen)
    for name, quiet in _TALKATIVE.items():
        logging.getLogger(name).setLevel(max(chosen, quiet))
    logging.captureWarnings(True)


class _Masks:
    """Replaces secrets in a line, as they are and as JSON and Python would write them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Shorter ones would make holes into ordinary words.
        real = [text for text in secrets if len(text) >= _MIN_SECRET_CHARACTERS]
        said = {form for text in real for form in (text, repr(text)[1:-1])}
        forms = said | {json.dumps(form, ensure_ascii=ascii_)[1:-1] for form in said for ascii_ in (True, False)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, line: str) -> str:
        for form in self._forms:
            line = line.replace(form, "***")
        return line


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, masks: _Masks, *, foreign_pre_chain: list[Processor], processors: list[Processor]) -> None:
        super().__init__(foreign_pre_chain=foreign_pre_chain, processors=processors)
        self._masks = masks

    def format(self, record: logging.LogRecord) -> str:
        return self._masks(super().format(record))
