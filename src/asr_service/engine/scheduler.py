"""The batching policy: which sequences are encoded now, and which row each running one has.

Owns the waiting and running sequences. Plain Python: no tensors, no clock of its own, no threads.

Waiting sequences stand in one queue per request, and admission goes round the requests, so that a long file cannot
keep a short one waiting. Final windows of live speech go before all others. Drafts of live speech take turns with
recordings and begin together: while some run, others wait, since a step costs hardly more for five rows than for one,
and since final windows are then not held up by encoding at every step. Running sequences occupy rows 0 … n-1 without
gaps. Every step admits what fits into the free slots and into a budget of encoder frames, so that the running ones
never stall for long.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

from asr_service.domain import Priority
from asr_service.engine.sequence import Finish, Sequence

_KEPT_FOR_OTHERS = 8
"""Of so many slots, drafts leave one to those who wait for a final text."""
_DRAFT_STEPS = 12
"""Drafts wait for the end of those that run, or for so many steps of theirs: few take more than a handful."""


class _Turns:
    """Sequences of several requests, which take turns; those of one request keep their order."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Sequence]] = OrderedDict()

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            yield from queue

    def of(self, request_id: str) -> tuple[Sequence, ...]:
        return tuple(self._queues.get(request_id, ()))

    def add(self, sequence: Sequence) -> None:
        self._queues.setdefault(sequence.request_id, deque()).append(sequence)

    def replace(self, old: Sequence, new: Sequence) -> None:
        """Give `new` the place of `old`, of the same request."""
        queue = self._queues[old.request_id]
        queue[queue.index(old)] = new

    @property
    def first(self) -> Sequence | None:
        """Whose turn it is."""
        return next(iter(self._queues.values()))[0] if self._queues else None

    def take(self) -> Sequence:
        """The first; its request is last in turn then."""
        request_id, queue = next(iter(self._queues.items()))
        sequence = queue.popleft()
        if queue:
            self._queues.move_to_end(request_id)
        else:
            del self._queues[request_id]
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Does nothing for one that is not in."""
        queue = self._queues.get(sequence.request_id, ())
        if sequence in queue:
            assert isinstance(queue, deque)
            queue.remove(sequence)
            if not queue:
                del self._queues[sequence.request_id]


class Scheduler:
    def __init__(self, slots: int, max_step_frames: int) -> None:
        """`slots` sequences run at once; a step encodes at most `max_step_frames` frames, but always one sequence."""
        if slots < 1:
            raise ValueError("an engine needs at least one slot")
        self.slots = slots
        self.max_step_frames = max_step_frames
        self.running: list[Sequence] = []
        self._waiting = {priority: _Turns() for priority in Priority}
        self._by_id: dict[int, Sequence] = {}
        self._next_is_draft = False

    @property
    def waiting_count(self) -> int:
        return len(self._by_id) - len(self.running)

    @property
    def idle(self) -> bool:
        return not self._by_id

    def waiting(self) -> Iterator[Sequence]:
        """All waiting sequences, in no particular order."""
        for turns in self._waiting.values():
            yield from turns

    def find(self, sequence_id: int) -> Sequence | None:
        return self._by_id.get(sequence_id)

    def add(self, sequence: Sequence) -> tuple[Sequence, ...]:
        """Let a sequence wait. Returns the drafts of its request that nobody needs any more: they are dropped.

        A draft takes the place of the one that it makes stale, so that being replaced again and again costs no turn.
        """
        self._by_id[sequence.id] = sequence
        drafts = self._waiting[Priority.DRAFT]
        stale = drafts.of(sequence.request_id)
        if sequence.priority is Priority.DRAFT and stale:
            drafts.replace(stale[0], sequence)
            del self._by_id[stale[0].id]
        else:
            self._waiting[sequence.priority].add(sequence)
            for draft in stale:
                self.drop(draft)
        return stale

    def admit(self) -> list[Sequence]:
        """Take the sequences that are to be encoded now from the queues, in turn from each request.

        They belong to nobody until `start` or `drop` is called for each.
        """
        batch: list[Sequence] = []
        frames = 0
        while len(self.running) + len(batch) < self.slots:
            turns = self._next_turns(self.slots - len(self.running) - len(batch))
            sequence = turns.first if turns is not None else None
            if turns is None or sequence is None or (batch and frames + sequence.frames > self.max_step_frames):
                break
            batch.append(turns.take())
            frames += sequence.frames
            if sequence.priority is not Priority.FINAL:
                self._next_is_draft = sequence.priority is Priority.NORMAL
        return batch

    def _next_turns(self, free: int) -> _Turns | None:
        """The queues that the next sequence comes from while so many slots are free."""
        final, normal, drafts = (self._waiting[priority] for priority in Priority)
        if final.first is not None:
            return final
        may_draft = (
            drafts.first is not None
            and free > self.slots // _KEPT_FOR_OTHERS
            and not any(s.priority is Priority.DRAFT and s.steps < _DRAFT_STEPS for s in self.running)
        )
        if may_draft and (self._next_is_draft or normal.first is None):
            return drafts
        return normal if normal.first is not None else None

    def start(self, sequence: Sequence) -> int:
        """Put an admitted sequence into the next row; returns the row."""
        self.running.append(sequence)
        return len(self.running) - 1

    def finish(self, sequence: Sequence) -> Finish:
        """End a running sequence: its row goes to the last one, so that the rows stay without gaps."""
        row = self.running.index(sequence)
        last = self.running.pop()
        del self._by_id[sequence.id]
        if row == len(self.running):
            return Finish(sequence, row)
        self.running[row] = last
        return Finish(sequence, row, moved_from=len(self.running))

    def drop(self, sequence: Sequence) -> None:
        """End a sequence that is not running: still waiting, or admitted but not started."""
        del self._by_id[sequence.id]
        self._waiting[sequence.priority].remove(sequence)
