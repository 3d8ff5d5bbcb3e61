"""Everything that can go wrong for a caller, with its HTTP status and a stable code.

AsrError
├── InvalidInput          4xx: the caller can fix it
│   ├── InvalidOption     422  a field or option that is unknown or has a bad value
│   ├── MissingAudio      400  no file, or an empty one
│   ├── UnreadableAudio   400  not audio, no sound in it, or damaged beyond reading
│   ├── UploadTimeout     408  the body arrives too slowly, or not at all
│   ├── UploadTooLarge    413
│   ├── UnsupportedUpload 415  neither a multipart form nor an audio body
│   ├── AudioTooLong      413
│   ├── UnknownModel      404
│   └── TokensNotIssued   404  there is no secret to sign tokens with
├── Unauthenticated       401  no credentials, or none that count
├── Forbidden             403  credentials without the scope
├── RateLimited           429  more than this caller may use (carries retry_after_s)
├── Unavailable           503: try again later (carries retry_after_s)
│   ├── Overloaded        too many requests, or too much audio, are waiting
│   ├── ShuttingDown
│   ├── EngineNotReady
│   ├── AuthUnavailable   who issues tokens cannot be reached, so they cannot be checked
│   └── EngineCrashed     the engine died repeatedly while it held this window
├── EngineError           500  the model failed on this window
├── DeadlineExceeded      504
└── ModelUnavailable      a model cannot be loaded: ends the start of the service
"""

from typing import ClassVar


class AsrError(Exception):
    """Base of all errors that callers see: a stable `code`, an HTTP `status` and one sentence for a human."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None, option: str | None = None) -> None:
        """`option` names the field or option that is to blame, where it is one."""
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.option = option


class InvalidInput(AsrError):
    code = "invalid_input"
    status = 400


class InvalidOption(InvalidInput):
    code = "invalid_option"
    status = 422


class MissingAudio(InvalidInput):
    code = "missing_audio"


class UnreadableAudio(InvalidInput):
    code = "unreadable_audio"


class UploadTimeout(InvalidInput):
    code = "upload_timeout"
    status = 408


class UploadTooLarge(InvalidInput):
    code = "upload_too_large"
    status = 413


class UnsupportedUpload(InvalidInput):
    code = "unsupported_upload"
    status = 415


class AudioTooLong(InvalidInput):
    code = "audio_too_long"
    status = 413


class UnknownModel(InvalidInput):
    code = "model_not_found"
    status = 404


class TokensNotIssued(InvalidInput):
    code = "tokens_not_issued"
    status = 404


class Unauthenticated(AsrError):
    """`credentials_given` tells a caller without any from one whose credentials do not count (RFC 6750, section 3)."""

    code = "unauthenticated"
    status = 401

    def __init__(self, message: str, *, credentials_given: bool) -> None:
        super().__init__(message)
        self.credentials_given = credentials_given


class Forbidden(AsrError):
    """`scope` is what is missing."""

    code = "insufficient_scope"
    status = 403

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message)
        self.scope = scope


class RateLimited(AsrError):
    code = "rate_limited"
    status = 429


class Unavailable(AsrError):
    code = "unavailable"
    status = 503


class Overloaded(Unavailable):
    code = "overloaded"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class EngineNotReady(Unavailable):
    code = "engine_not_ready"


class AuthUnavailable(Unavailable):
    code = "auth_unavailable"


class EngineCrashed(Unavailable):
    code = "engine_crashed"


class EngineError(AsrError):
    code = "engine_error"


class Superseded(Exception):
    """A draft of live speech was not made, since a newer window of the same speech has come.

    No AsrError: it is for the session that sent both, and tells no caller anything.
    """

    code: ClassVar[str] = "superseded"


class DeadlineExceeded(AsrError):
    code = "deadline_exceeded"
    status = 504


class ModelUnavailable(AsrError):
    code = "model_unavailable"
    status = 503
