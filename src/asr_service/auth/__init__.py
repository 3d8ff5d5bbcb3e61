"""Who asks: API keys and bearer tokens, checked.

Owns how a credential becomes a Caller, and why it does not. Knows neither HTTP nor what callers may use.
"""

from typing import Literal

__all__ = ["AuthUnusable", "KeysUnavailable", "Reason", "Refused"]

Reason = Literal["malformed", "unknown", "expired", "revoked", "claims"]
"""Why a credential does not count. unknown: no such key, or no signature of ours; claims: what a token says."""


class AuthUnusable(Exception):
    """The checks cannot be set up or a key cannot be made. One sentence for who runs the service."""


class KeysUnavailable(Exception):
    """The issuer's public keys are not there, so nothing can be said about a token."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the issuer's keys could not be fetched")
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """A credential does not count. `reason` is for metrics, `detail` for the log; neither is for the caller."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail
