"""Whether an engine can be relied upon, and since when.

Owns the reason why it cannot, who waits for it, the circuit that keeps an engine that dies again and again from being
called ready in between, and how long an engine may be silent. Knows neither processes nor windows.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

log = logging.getLogger("asr_service.engine.client")


class Circuit:
    """Opens at the `deaths`-th death within `within_s`; is closed when an engine has been up for `stable_s`.

    Times are in seconds, of one monotonic clock. The default is one death more than a single window may cause before
    it is taken for their cause.
    """

    def __init__(self, deaths: int = 6, within_s: float = 300.0, stable_s: float = 60.0) -> None:
        self.deaths = deaths
        self.within_s = within_s
        self.stable_s = stable_s
        self.is_open = False
        self._last_s: deque[float] = deque(maxlen=deaths)

    def died(self, now_s: float) -> None:
        """Take note of a death."""
        self._last_s.append(now_s)
        if len(self._last_s) == self.deaths and now_s - self._last_s[0] <= self.within_s:
            self.is_open = True

    def close(self) -> None:
        """An engine has been up for long enough: what was before it is forgotten."""
        self.is_open = False
        self._last_s.clear()


class Health:
    """The state of one engine after another. `on_change` gets `not_ready_reason` whenever that may have changed."""

    def __init__(self, circuit: Circuit, on_change: Callable[[str | None], None]) -> None:
        self._circuit = circuit
        self._on_change = on_change
        self._down: str | None = "the engine has not been started"
        self._changed = asyncio.Event()
        self._stable: asyncio.TimerHandle | None = None

    @property
    def not_ready_reason(self) -> str | None:
        """None while an engine is up and can be relied upon, else one sentence."""
        circuit = self._circuit
        if self._down is None and circuit.is_open:
            return (
                f"the engine died {circuit.deaths} times within {circuit.within_s:.0f} s; it is up again, and is "
                f"called ready when it has been so for {circuit.stable_s:.0f} s"
            )
        return self._down

    @property
    def is_hopeless(self) -> bool:
        """No engine is up, and so many have died lately that nobody should wait for the next one."""
        return self._down is not None and self._circuit.is_open

    async def changed(self) -> None:
        """Wait for the next change."""
        self._changed.clear()
        await self._changed.wait()

    def up(self) -> None:
        """An engine can work."""
        self._down = None
        if self._circuit.is_open:
            self._stable = asyncio.get_running_loop().call_later(self._circuit.stable_s, self._on_stable)
        self._tell()

    def down(self, reason: str) -> None:
        """None can."""
        self._down = reason
        if self._stable is not None:
            self._stable.cancel()
            self._stable = None
        self._tell()

    def died(self, reason: str) -> None:
        """One has died, for which there may be a `reason`."""
        was_open = self._circuit.is_open
        self._circuit.died(asyncio.get_running_loop().time())
        if self._circuit.is_open and not was_open:
            log.error(
                "the engine died %d times within %.0f s: not ready until one has been up for %.0f s",
                self._circuit.deaths,
                self._circuit.within_s,
                self._circuit.stable_s,
            )
        self.down(reason)

    def _on_stable(self) -> None:
        self._stable = None
        self._circuit.close()
        log.info("the engine is relied upon again")
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._on_change(self.not_ready_reason)


class Patience:
    """Calls `on_end` when `limit_s` seconds have passed between `begin` and `end`."""

    def __init__(self, limit_s: float, on_end: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Time counts from now on, or goes on counting."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._over)

    def end(self) -> None:
        """There is nothing to wait for, or it has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        self._on_end()
