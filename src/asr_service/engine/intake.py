"""Windows on their way into the engine, prepared one after the other; those that come later can still be taken back.

Owns the order of arrival and what a cancellation means for a window that is not prepared yet. Knows neither sockets nor
features: it is told how to prepare a window, and where to put it then.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from asr_service.engine.messages import Cancel, Submit

Prepared = TypeVar("Prepared")


class Intake(Generic[Prepared]):
    """One thread adds and cancels, another one runs `work`."""

    def __init__(self, prepare: Callable[[Submit], Prepared], put: Callable[[Prepared | Cancel], None]) -> None:
        """`put` gets each prepared window and each cancellation of one that it has got, in order."""
        self._prepare = prepare
        self._put = put
        self._waiting: OrderedDict[int, Submit] = OrderedDict()
        self._at_work: int | None = None
        self._closed = False
        self._changed = threading.Condition()

    def add(self, message: Submit) -> None:
        with self._changed:
            self._waiting[message.id] = message
            self._changed.notify()

    def cancel(self, message: Cancel) -> None:
        """Take a window back. Nothing more is heard of one that has not been put."""
        with self._changed:
            if message.id == self._at_work:
                self._at_work = None
            elif self._waiting.pop(message.id, None) is None:
                self._put(message)

    def close(self) -> None:
        """Nothing more comes, and nobody waits for what has."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def work(self) -> None:
        """Prepare windows until `close`. Raises what `prepare` raises."""
        while (message := self._next()) is not None:
            prepared = self._prepare(message)
            with self._changed:
                if self._at_work == message.id:
                    self._put(prepared)
                    self._at_work = None

    def _next(self) -> Submit | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._at_work, message = self._waiting.popitem(last=False)
            return message
