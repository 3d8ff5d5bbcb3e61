"""Logs: one pipe for all, in both forms."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from asr_service.observability import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {
        name: logging.getLogger(name).level for name in ("", "asr_service", "uvicorn", "python_multipart", "httpx")
    }
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(level: str, form: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return stream


@pytest.mark.parametrize("form", ["json", "auto"])
def test_json_lines_have_time_level_logger_and_context(form: str) -> None:
    stream = configured("info", form)

    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.stdlib.get_logger("asr_service.test").info("done", audio_s=1.5, name_of="Zoë")

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "done",
        "level": "info",
        "logger": "asr_service.test",
        "audio_s": 1.5,
        "name_of": "Zoë",
        "request_id": "r1",
    }
    assert "Zoë" in stream.getvalue()


def test_the_standard_library_and_warnings_go_the_same_way() -> None:
    stream = configured("info", "json")

    logging.getLogger("uvicorn.error").info("started with %d workers", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)

    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["event"], first["logger"], first["level"]) == ("started with 3 workers", "uvicorn.error", "info")
    assert "old thing" in second["event"]
    assert second["level"] == "warning"


def test_lines_below_the_level_are_dropped() -> None:
    stream = configured("warning", "json")

    structlog.stdlib.get_logger("a").info("no")
    logging.getLogger("b").info("no")
    structlog.stdlib.get_logger("c").warning("yes")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("own", [True, False])
def test_tracebacks_show_no_values_of_variables(form: str, own: bool) -> None:
    stream = configured("info", form)
    log = structlog.stdlib.get_logger("a") if own else logging.getLogger("a")

    def fails(spoken: str) -> None:
        raise RuntimeError("it broke")

    try:
        fails("what was " + "said")
    except RuntimeError:
        log.exception("failed")

    assert "it broke" in stream.getvalue()
    assert "fails" in stream.getvalue()
    assert "what was said" not in stream.getvalue()


def test_the_console_form_is_readable() -> None:
    stream = configured("info", "console")

    structlog.stdlib.get_logger("a").info("ready", model="whisper-base")

    assert "[info" in stream.getvalue()
    assert "ready" in stream.getvalue()
    assert "model=whisper-base" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
