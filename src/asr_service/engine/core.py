"""The engine's loop body: messages in, one step, messages out.

Owns what happens to a sequence from submission to its single answer: admission, decoding, guard, cancellation,
deadline, and the isolation of a window that makes a batch fail. Works with any `Runner`; knows no torch, no socket
and no thread, so all of it is tested with a runner in plain Python.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from asr_service.domain import Part, Priority, Token, WindowOptions, WindowTimings, Word
from asr_service.engine.messages import Cancel, Failed, Finished, FromEngine, Started, Stats, Submit
from asr_service.engine.scheduler import Scheduler
from asr_service.engine.sequence import Sequence
from asr_service.errors import DeadlineExceeded, EngineError, Superseded
from asr_service.models.base import Admitted, Aligner, Features, NewSequence, Runner, TimeWriter
from asr_service.text.guard import OutputGuard

log = logging.getLogger("asr_service.engine")

_STATS_INTERVAL_S = 0.05


@dataclass(slots=True)
class _Counters:
    batch_sizes: list[int] = field(default_factory=list)
    tokens: int = 0
    frames_real: int = 0
    frames_padded: int = 0


class EngineCore:
    """Single-threaded. `send` takes each outgoing message; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        runner: Runner,
        send: Callable[[FromEngine], None],
        clock: Callable[[], float],
        *,
        max_step_frames: int,
        aligner: Aligner | None = None,
        guard: bool = True,
        is_fatal: Callable[[Exception], bool] = lambda error: False,
        memory: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """`is_fatal` recognises errors that only a new process can leave behind; `step` raises those. `memory` tells
        how many bytes of its device the engine holds, and how many the device has.
        """
        self._runner = runner
        self._send = send
        self._clock = clock
        self._aligner = aligner
        self._guard = guard
        self._is_fatal = is_fatal
        self._memory = memory
        self._scheduler = Scheduler(runner.info.slots, max_step_frames)
        self._counters = _Counters()
        self._stats_sent_s = float("-inf")

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def submit(self, message: Submit, features: Features, aligner_features: Features | None = None) -> None:
        """`aligner_features`: the window as the aligner wants it, where that is not how the model wants it."""
        now = self._clock()
        options = message.options
        self._wait(
            Sequence(
                id=message.id,
                request_id=message.request_id,
                features=features,
                options=options,
                guard=self._guard_for(features, options),
                arrived_s=now,
                frames=self._runner.encoder_frames(features),
                priority=message.priority,
                aligner_features=aligner_features,
                deadline_s=None if message.deadline_ms is None else now + message.deadline_ms / 1e3,
            )
        )

    def _wait(self, sequence: Sequence) -> None:
        for stale in self._scheduler.add(sequence):
            self._send(Failed(stale.id, Superseded.code, "A newer window of the same speech has come."))

    def cancel(self, message: Cancel) -> None:
        """End a sequence whose result nobody wants. Says nothing; unknown ids have ended already."""
        sequence = self._scheduler.find(message.id)
        if sequence is not None:
            self._end(sequence)

    def step(self) -> None:
        """Expire, admit, and run one decode step for all running sequences."""
        self._expire()
        batch = self._scheduler.admit()
        if batch:
            self._admit(batch)
        if self._scheduler.running:
            self._decode()
        self._report()

    def _expire(self) -> None:
        now = self._clock()
        late = [s for s in (*self._scheduler.waiting(), *self._scheduler.running) if s.expired(now)]
        for sequence in late:
            self._fail(sequence, DeadlineExceeded.code, "The deadline passed before the transcription was done.")

    def _admit(self, batch: list[Sequence]) -> None:
        now = self._clock()
        for sequence in batch:
            sequence.admitted_s = now
        try:
            admitted = self._encode(batch)
        except Exception as error:  # noqa: BLE001 - fails the guilty window
            self._raise_if_fatal(error)
            if len(batch) == 1:
                self._fail(batch[0], EngineError.code, f"The model failed on this audio: {_describe(error)}")
                return
            # One bad window must not cost the others theirs.
            for sequence in batch:
                self._admit([sequence])
            return
        # All of them take their rows, as the runner has filled them, before the first one can leave its own again.
        for sequence, result in zip(batch, admitted, strict=True):
            self._start(sequence, result)
        for sequence, result in zip(batch, admitted, strict=True):
            # The last of them may be a stop, and the guard may say stop before.
            any(self._take(sequence, token) for token in result.tokens)

    def _encode(self, batch: list[Sequence]) -> list[Admitted]:
        inputs = [
            NewSequence(
                sequence.features,
                sequence.options,
                exact=sequence.exact,
                speech_of=None if sequence.priority is Priority.NORMAL else sequence.request_id,
                draft=sequence.priority is Priority.DRAFT,
            )
            for sequence in batch
        ]
        return self._runner.admit(len(self._scheduler.running), inputs)

    def _start(self, sequence: Sequence, result: Admitted) -> None:
        sequence.encoded_s = self._clock()
        sequence.language = result.language
        sequence.no_speech_prob = result.no_speech_prob
        self._scheduler.start(sequence)
        self._counters.frames_real += sequence.features.frames
        self._counters.frames_padded += sequence.frames
        if not sequence.exact:
            self._send(Started(sequence.id, result.language))

    def _decode(self) -> None:
        running = list(self._scheduler.running)
        self._counters.batch_sizes.append(len(running))
        try:
            tokens: list[int | None] = list(self._runner.decode(0, len(running)))
        except Exception as error:  # noqa: BLE001 - repeated row by row
            self._raise_if_fatal(error)
            tokens = self._decode_one_by_one(running)
        for sequence, token in zip(running, tokens, strict=True):
            sequence.steps += 1
            if token is not None:
                self._take(sequence, token)

    def _decode_one_by_one(self, running: list[Sequence]) -> list[int | None]:
        """Repeat a failed step row by row, so that only the guilty sequence fails (None)."""
        tokens: list[int | None] = []
        guilty: list[tuple[Sequence, str]] = []
        for row, sequence in enumerate(running):
            try:
                tokens += self._runner.decode(row, 1)
            except Exception as error:  # noqa: BLE001 - fails the guilty window
                self._raise_if_fatal(error)
                tokens.append(None)
                guilty.append((sequence, _describe(error)))
        for sequence, reason in guilty:
            self._fail(sequence, EngineError.code, f"The model failed on this audio: {reason}")
        return tokens

    def _raise_if_fatal(self, error: Exception) -> None:
        if self._is_fatal(error):
            raise error

    def _take(self, sequence: Sequence, token: int) -> bool:
        """Add a token to a running sequence, and finish it when it is complete. True: it no longer runs."""
        self._counters.tokens += 1
        if token not in self._runner.stop_ids:
            if not sequence.guard.push(token):
                return False
            if self._try_exactly(sequence):
                return True
        self._finish(sequence)
        return True

    def _try_exactly(self, sequence: Sequence) -> bool:
        """Begin a sequence again that the guard has stopped, if the exact encoder may do better."""
        exact_frames = self._runner.encoder_frames(sequence.features, exact=True)
        worth_it = self._guard and sequence.priority is not Priority.DRAFT
        if not worth_it or sequence.exact or sequence.frames == exact_frames:
            return False
        self._end(sequence)
        sequence.exact, sequence.frames = True, exact_frames
        sequence.guard = self._guard_for(sequence.features, sequence.options)
        self._wait(sequence)
        return True

    def _guard_for(self, features: Features, options: WindowOptions) -> OutputGuard:
        return OutputGuard(features.duration_s, self._runner.max_new_tokens(options), enabled=self._guard)

    def _finish(self, sequence: Sequence) -> None:
        guard, decoded_s = sequence.guard, self._clock()
        text = self._runner.text([*self._runner.prefix(sequence.options), *guard.tokens])
        words, details = self._words(sequence, text), self._details(sequence)
        timings = WindowTimings(
            queue_ms=(sequence.admitted_s - sequence.arrived_s) * 1e3,
            encode_ms=(sequence.encoded_s - sequence.admitted_s) * 1e3,
            decode_ms=(decoded_s - sequence.encoded_s) * 1e3,
            decode_steps=sequence.steps,
            align_ms=(self._clock() - decoded_s) * 1e3 if sequence.options.words else 0.0,
        )
        self._end(sequence)
        self._send(
            Finished(
                sequence.id,
                text,
                sequence.language,
                len(guard.tokens),
                timings,
                guard.stopped,
                words,
                details,
                self._parts(sequence),
                sequence.no_speech_prob,
            )
        )

    def _words(self, sequence: Sequence, text: str) -> tuple[Word, ...]:
        """The times of a running sequence's words, if its options ask for them. None rather than no text."""
        options = sequence.options
        if self._aligner is None or not options.words:
            return ()
        row = self._scheduler.running.index(sequence)
        features = sequence.features if sequence.aligner_features is None else sequence.aligner_features
        try:
            return self._aligner.words(row, features, text, sequence.language, options.task)
        except Exception as error:  # noqa: BLE001 - the text is worth more than the times of its words
            self._raise_if_fatal(error)
            # The request is named in the text: of an engine's messages the service knows no more than that.
            log.warning(
                "a window of request %s has no word times, since aligning it failed: %s",
                sequence.request_id,
                _describe(error),
            )
            return ()

    def _parts(self, sequence: Sequence) -> tuple[Part, ...]:
        """The text between the times that the model has written, if the options ask for those."""
        if not sequence.options.timestamps or not isinstance(self._runner, TimeWriter):
            return ()
        return self._runner.parts(sequence.guard.tokens, sequence.features.duration_s)

    def _details(self, sequence: Sequence) -> tuple[Token, ...]:
        """What the tokens of a running sequence were worth, if its options ask for that."""
        if not sequence.options.logprobs:
            return ()
        return self._runner.details(self._scheduler.running.index(sequence), sequence.guard.tokens)

    def _fail(self, sequence: Sequence, code: str, message: str) -> None:
        self._end(sequence)
        self._send(Failed(sequence.id, code, message))

    def _end(self, sequence: Sequence) -> None:
        """Take a sequence out of the scheduler, wherever it is, and close the gap that it leaves."""
        if sequence not in self._scheduler.running:
            self._scheduler.drop(sequence)
            return
        finish = self._scheduler.finish(sequence)
        if finish.moved_from is not None:
            self._runner.move(finish.moved_from, finish.row)

    def _report(self) -> None:
        now = self._clock()
        if now - self._stats_sent_s < _STATS_INTERVAL_S and not self.idle:
            return
        counters, self._counters = self._counters, _Counters()
        self._stats_sent_s = now
        memory_bytes, memory_total_bytes = self._memory()
        self._send(
            Stats(
                waiting=self._scheduler.waiting_count,
                running=len(self._scheduler.running),
                batch_sizes=counters.batch_sizes,
                tokens=counters.tokens,
                frames_real=counters.frames_real,
                frames_padded=counters.frames_padded,
                memory_bytes=memory_bytes,
                memory_total_bytes=memory_total_bytes,
            )
        )


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
