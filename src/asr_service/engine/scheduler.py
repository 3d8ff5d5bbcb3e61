"""The batching policy: which sequences are encoded now, and which row each running one has.

Owns the waiting and running sequences. Plain Python: no tensors, no clock of its own, no threads.

Waiting sequences stand in one queue per request, and admission goes round the requests, so that a long file cannot
keep a short one waiting. Running sequences occupy rows 0 … n-1 without gaps. Every step admits what fits into the
free slots and into a budget of encoder frames, so that the running ones never stall for long.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

from asr_service.engine.sequence import Finish, Sequence


class Scheduler:
    def __init__(self, slots: int, max_step_frames: int) -> None:
        """`slots` sequences run at once; a step encodes at most `max_step_frames` frames, but always one sequence."""
        if slots < 1:
            raise ValueError("an engine needs at least one slot")
        self.slots = slots
        self.max_step_frames = max_step_frames
        self.running: list[Sequence] = []
        self._waiting: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self._by_id: dict[int, Sequence] = {}

    @property
    def waiting_count(self) -> int:
        return len(self._by_id) - len(self.running)

    @property
    def idle(self) -> bool:
        return not self._by_id

    def waiting(self) -> Iterator[Sequence]:
        """All waiting sequences, in no particular order."""
        for queue in self._waiting.values():
            yield from queue

    def find(self, sequence_id: int) -> Sequence | None:
        return self._by_id.get(sequence_id)

    def add(self, sequence: Sequence) -> None:
        self._by_id[sequence.id] = sequence
        self._waiting.setdefault(sequence.request_id, deque()).append(sequence)

    def admit(self) -> list[Sequence]:
        """Take the sequences that are to be encoded now from the queue, in turn from each request.

        They belong to nobody until `start` or `drop` is called for each.
        """
        batch: list[Sequence] = []
        frames = 0
        free = self.slots - len(self.running)
        while len(batch) < free and self._waiting:
            request_id, queue = next(iter(self._waiting.items()))
            if batch and frames + queue[0].frames > self.max_step_frames:
                break
            sequence = queue.popleft()
            if queue:
                self._waiting.move_to_end(request_id)
            else:
                del self._waiting[request_id]
            batch.append(sequence)
            frames += sequence.frames
        return batch

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
        queue = self._waiting.get(sequence.request_id)
        if queue is not None and sequence in queue:
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.request_id]
