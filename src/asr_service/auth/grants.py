"""What a credential grants, as it is written down: scopes and limits.

Owns their shape in key files and in tokens, which is the same.
"""

from collections.abc import Iterable
from typing import Annotated, Final, get_args

import msgspec

from asr_service.callers import CallerLimits, Scope

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
_Amount = Annotated[int, msgspec.Meta(ge=0)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """CallerLimits in JSON. Unlike there, every amount is checked and an unknown one is an error."""

    requests_per_minute: _Amount | None = None
    audio_s_per_minute: _Amount | None = None
    audio_s_per_day: _Amount | None = None
    concurrent: _Amount | None = None

    def as_caller_limits(self) -> CallerLimits:
        return CallerLimits(**msgspec.structs.asdict(self))


def known_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Those of `names` that mean something here. Identity providers put their own beside them."""
    given = set(names)
    return frozenset(scope for scope in SCOPES if scope in given)


def limits_to_json(limits: CallerLimits) -> dict[str, int]:
    """What `Limits` reads, without what is unset."""
    fields = {name: getattr(limits, name) for name in CallerLimits.__dataclass_fields__}
    return {name: amount for name, amount in fields.items() if amount is not None}
