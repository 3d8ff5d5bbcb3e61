"""The groups of settings: who may use the service, how much of it, and who is told where its time went.

Owns their names, defaults and checks. Where they are read from is the package's business.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: a key for HS256 has at least as many bits as the hash."""
_MIN_DISTINCT_BYTES = 10
"""A random secret of 32 bytes or more has fewer different ones about never, even in hexadecimal digits."""

_TRACES_PATH = "/v1/traces"
_FIELD = re.compile(r"\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+\s*=[\t\x20-\x7e]+")


class JwtSettings(BaseModel):
    """Bearer tokens: whose signatures count, and what they must say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: SecretStr | None = Field(
        default=None,
        description="Secret for HS256, at least 32 random bytes. With it `POST /auth/token` can issue tokens.",
    )
    public_key_file: Path | None = Field(
        default=None, description="PEM file with a public key (RSA, P-256 or Ed25519) of who issues tokens."
    )
    jwks_url: str | None = Field(
        default=None, description="Address of a JSON Web Key Set, `https://…`, of who issues tokens."
    )
    issuer: str | None = Field(default=None, description="What the claim `iss` must be; unset: not looked at.")
    audience: str | None = Field(
        default=None, description="What the claim `aud` must hold; unset: a token that names an audience is refused."
    )
    leeway_s: int = Field(default=30, ge=0, le=300, description="Clock difference that is forgiven, in seconds.")
    lifetime_s: int = Field(
        default=900, ge=10, le=86_400, description="Validity of tokens that `POST /auth/token` issues, in seconds."
    )

    @field_validator("secret")
    @classmethod
    def _strong(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            plain = secret.get_secret_value().encode()
            if len(plain) < MIN_SECRET_BYTES or len(set(plain)) < _MIN_DISTINCT_BYTES:
                raise ValueError(
                    f"it should be at least {MIN_SECRET_BYTES} random bytes, for example from `openssl rand -base64 48`"
                )
        return secret

    @field_validator("jwks_url")
    @classmethod
    def _encrypted(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
            if not parts.hostname or parts.username is not None or not (parts.scheme == "https" or local):
                raise ValueError("it should start with https:// and hold no user name")
        return url


class AuthSettings(BaseModel):
    """Who may use the service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["none", "required"] = Field(
        default="none",
        description="`none`: everyone who can reach the address. Only loopback addresses are allowed then. "
        "`required`: callers with an API key or a bearer token.",
    )
    keys_file: Path | None = Field(
        default=None, description="File with the hashes of API keys, made by `asr-service keys create`."
    )
    jwt: JwtSettings = Field(default_factory=JwtSettings, description="Bearer tokens.")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        jwt = self.jwt
        if self.mode == "required" and not any((self.keys_file, jwt.secret, jwt.public_key_file, jwt.jwks_url)):
            raise ValueError(
                "ASR_AUTH__MODE=required needs something to check callers by: set ASR_AUTH__KEYS_FILE, "
                "ASR_AUTH__JWT__SECRET, ASR_AUTH__JWT__PUBLIC_KEY_FILE or ASR_AUTH__JWT__JWKS_URL"
            )
        return self


class RateLimitSettings(BaseModel):
    """How much one caller may use: a key or a token's subject, else an address. 0 means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int = Field(default=0, ge=0, description="Transcription requests a minute; 0: no limit.")
    audio_s_per_minute: int = Field(default=0, ge=0, description="Seconds of audio a minute; 0: no limit.")
    audio_s_per_day: int = Field(default=0, ge=0, description="Seconds of audio a day; 0: no limit.")
    concurrent: int = Field(default=0, ge=0, description="Transcription requests at once; 0: no limit.")
    failed_logins_per_minute: int = Field(
        default=20,
        ge=0,
        description="Refused credentials a minute from one address, before it has to wait; 0: no limit.",
    )
    on_store_failure: Literal["local", "deny"] = Field(
        default="local",
        description="While Redis cannot be reached: `local` counts in each process by itself, `deny` answers 503.",
    )


class RealtimeSettings(BaseModel):
    """Live sessions over WebSocket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_sessions: int = Field(
        default=64, ge=0, le=10_000, description="Live sessions at once; more are refused with `overloaded`. 0: none."
    )
    idle_timeout_s: float = Field(
        default=300, gt=0, le=86_400, description="A session whose client sends nothing for so long, in seconds, ends."
    )
    session_timeout_s: float = Field(
        default=7200, gt=0, le=604_800, description="A session ends after so many seconds, whatever happens in it."
    )


class TracesSettings(BaseModel):
    """Where traces are sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str | None = Field(
        default=None,
        description="Address of an OpenTelemetry collector that takes OTLP over HTTP, such as "
        "`http://localhost:4318`; unset: no traces. Needs `asr-service[otel]`.",
    )
    headers: SecretStr | None = Field(
        default=None,
        description="Header fields for the collector, `name=value` separated by commas, such as its credentials.",
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of requests that are traced, of those without a `traceparent`, which decides by itself.",
    )

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise ValueError("it should start with http:// or https:// and hold no user name")
            if parts.query or parts.fragment:
                raise ValueError("it should end with its path")
        return endpoint

    @field_validator("headers")
    @classmethod
    def _fields(cls, headers: SecretStr | None) -> SecretStr | None:
        if headers is not None and not all(_FIELD.fullmatch(field) for field in _split(headers)):
            raise ValueError("it should be name=value, or several of them separated by commas")
        return headers

    @property
    def url(self) -> str | None:
        """Where spans are posted: the path that OTLP gives to traces, below the endpoint."""
        if self.endpoint is None:
            return None
        return self.endpoint.rstrip("/").removesuffix(_TRACES_PATH) + _TRACES_PATH

    @property
    def fields(self) -> Mapping[str, str]:
        """The header fields by name."""
        pairs = [] if self.headers is None else [field.split("=", 1) for field in _split(self.headers)]
        return {name.strip().lower(): value.strip() for name, value in pairs}


def _split(headers: SecretStr) -> list[str]:
    return [field for field in headers.get_secret_value().split(",") if field.strip()]
