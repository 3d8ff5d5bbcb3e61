"""Runs windows through the real engine core and a real runner, arriving when a test says so."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asr_service.domain import WindowOptions
from asr_service.engine.core import EngineCore
from asr_service.engine.messages import Failed, Finished, FromEngine, Started, Submit
from asr_service.models.base import Features, Runner


class Recorder:
    """A runner that passes everything on and keeps the tokens of each window; stops after `limit` tokens."""

    def __init__(self, runner: Runner, limit: int = 10_000) -> None:
        self._runner = runner
        self._limit = limit
        self.tokens: list[list[int]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def max_new_tokens(self, options: WindowOptions) -> int:
        return min(self._limit, self._runner.max_new_tokens(options))

    def text(self, tokens: Sequence[int]) -> str:
        """Instead of text, where to find the tokens."""
        self.tokens.append(list(tokens))
        return str(len(self.tokens) - 1)


def finished_in_batch(
    runner: Runner, windows: Sequence[NDArray[np.int16]], options: Sequence[WindowOptions]
) -> list[Finished]:
    """What the engine says of windows that are submitted together, each with its own options."""
    sent: list[FromEngine] = []
    core = EngineCore(runner, sent.append, time.monotonic, max_step_frames=6_000)
    for i, (window, window_options) in enumerate(zip(windows, options, strict=True)):
        core.submit(Submit(i, f"request {i}", b"", window_options), runner.features(window))
    while not core.idle:
        core.step()
    finished = {message.id: message for message in sent if isinstance(message, Finished)}
    return [finished[i] for i in range(len(windows))]


def tokens_in_batch(
    runner: Runner,
    windows: Sequence[NDArray[np.int16] | Features],
    *,
    arrivals: Sequence[int] | None = None,
    languages: Sequence[str | None] | None = None,
    options: Sequence[WindowOptions] | None = None,
    limit: int = 10_000,
) -> tuple[list[list[int]], list[str | None]]:
    """Tokens (without the stop id) and languages of each window.

    Window i is submitted before engine step arrivals[i]; all at once where that is None. A prefix is among its tokens.
    The guard is off: it is the model that is compared.
    """
    recorder = Recorder(runner, limit)
    sent: list[FromEngine] = []
    core = EngineCore(recorder, sent.append, time.monotonic, max_step_frames=6_000, guard=False)  # type: ignore[arg-type]
    due = list(arrivals or [0] * len(windows))
    step = 0
    while not core.idle or step <= max(due):
        for i, window in enumerate(windows):
            if due[i] == step:
                features = window if isinstance(window, Features) else runner.features(window)
                own = options[i] if options else WindowOptions(languages[i] if languages else None)
                core.submit(Submit(i, f"request {i}", b"", own), features)
        core.step()
        step += 1
    assert not [message for message in sent if isinstance(message, Failed)]
    texts = {message.id: message.text for message in sent if isinstance(message, Finished)}
    detected = {message.id: message.language for message in sent if isinstance(message, Started)}
    return [recorder.tokens[int(texts[i])] for i in range(len(windows))], [detected[i] for i in range(len(windows))]
