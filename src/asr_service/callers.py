"""Who asks, and how much they may use.

Owns the types that authentication hands to limits, logs and routes. Knows neither HTTP nor how anybody is recognised.
"""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["transcribe", "metrics", "admin"]
"""What a caller may do: use the model, read /metrics, and both with all that is to come."""


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What one caller may use. None stands for the service's own setting, 0 for no limit."""

    requests_per_minute: int | None = None
    audio_s_per_minute: int | None = None
    audio_s_per_day: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was recognised.

    `name` is what limits count by and what logs say: `key:NAME`, `token:SUBJECT` or `address:ADDRESS`.
    """

    name: str
    scopes: frozenset[Scope]
    limits: CallerLimits = CallerLimits()

    @property
    def kind(self) -> str:
        """How the caller was recognised: `key`, `token` or `address`."""
        return self.name.partition(":")[0]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes
