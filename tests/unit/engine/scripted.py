"""A runner in plain Python whose sequences say what a script tells them to."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asr_service.domain import ModelInfo, Priority, Token, WindowOptions
from asr_service.engine.messages import Submit
from asr_service.models.base import Admitted, Features, NewSequence

STOP = 0


class ScriptedRunner:
    """A sequence's `duration_s` is the key of its script: the tokens that it says, one a step.

    Raises what `admit_errors` and `decode_errors` hold for a script. Rows are checked: a wrong move or a gap in the
    rows makes a sequence say another one's tokens.
    """

    stop_ids = frozenset({STOP})
    frames_per_window = 100

    def __init__(self, scripts: dict[float, list[int]], slots: int = 4, *, room: int = 10_000) -> None:
        self.info = ModelInfo("scripted", "scripted", "cpu", "float32", (), slots, 0, 0.0)
        self.scripts = scripts
        self.admit_errors: dict[float, Exception] = {}
        self.decode_errors: dict[float, Exception] = {}
        self.exact_scripts: dict[float, list[int]] = {}
        self.exact_frames = 0
        self.rows: list[tuple[float, list[int], int] | None] = [None] * slots
        self.batches: list[int] = []
        self.encoded: list[list[float]] = []
        self._room = room

    def features(self, pcm: NDArray[np.int16]) -> Features:
        raise NotImplementedError("the core is given features")

    def max_new_tokens(self, options: WindowOptions) -> int:
        return self._room

    def prefix(self, options: WindowOptions) -> list[int]:
        return [int(token) for token in options.prefix.split()]

    def encoder_frames(self, features: Features, *, exact: bool = False) -> int:
        return self.exact_frames if exact and self.exact_frames else int(features.log_mel.shape[1])

    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        keys = [sequence.features.duration_s for sequence in batch]
        self.encoded.append(keys)
        for key in keys:
            if key in self.admit_errors:
                raise self.admit_errors[key]
        scripts = [self._script(sequence) for sequence in batch]
        for row, (key, script) in enumerate(zip(keys, scripts, strict=True), first_row):
            self.rows[row] = (key, script, 1)
        return [
            Admitted(sequence.options.language or "en", (script[0],))
            for sequence, script in zip(batch, scripts, strict=True)
        ]

    def _script(self, sequence: NewSequence) -> list[int]:
        scripts = self.exact_scripts if sequence.exact else self.scripts
        return scripts[sequence.features.duration_s]

    def decode(self, first_row: int, count: int) -> list[int]:
        self.batches.append(count)
        rows = [self.rows[row] for row in range(first_row, first_row + count)]
        live = [row for row in rows if row is not None]
        assert len(live) == count, "decoded a row that holds nothing"
        for key, _, _ in live:
            if key in self.decode_errors:
                raise self.decode_errors[key]
        for row, (key, script, position) in enumerate(live, first_row):
            self.rows[row] = (key, script, position + 1)
        return [script[position] for _, script, position in live]

    def move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]
        self.rows[source] = None

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    def details(self, row: int, tokens: Sequence[int]) -> tuple[Token, ...]:
        """A token's log probability is minus the key of the script in `row`."""
        held = self.rows[row]
        assert held is not None, "asked for the details of a row that holds nothing"
        return tuple(Token(token, str(token).encode(), -held[0]) for token in tokens)


def features(key: float, frames: int = 100) -> Features:
    return Features(np.zeros((1, frames), dtype=np.float32), frames, key)


def submit(
    sequence_id: int,
    request_id: str = "r",
    *,
    language: str | None = None,
    prefix: str = "",
    deadline_ms: float | None = None,
    priority: Priority = Priority.NORMAL,
) -> Submit:
    return Submit(sequence_id, request_id, b"", WindowOptions(language, prefix=prefix), deadline_ms, priority)
