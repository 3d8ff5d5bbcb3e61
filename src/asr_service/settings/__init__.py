"""The configuration of the service: one typed tree, read from variables that start with ASR_.

Owns names, defaults and checks of all settings (groups of them in `sections`), what a child process may see of the
environment (`environment`), and a log of the settings (`shown`). The only package that reads the environment. Every
field is described in docs/settings.md.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from asr_service.settings.environment import ServiceManager, decoder_environment, engine_environment
from asr_service.settings.sections import AuthSettings, RateLimitSettings, RealtimeSettings, TracesSettings
from asr_service.settings.shown import MASK, leaves, masked, texts_of, value_at

__all__ = [
    "AuthSettings",
    "RateLimitSettings",
    "RealtimeSettings",
    "ServiceManager",
    "Settings",
    "SettingsError",
    "TracesSettings",
    "decoder_environment",
    "engine_environment",
    "variables",
]

_PREFIX = "ASR_"
_DELIMITER = "__"


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification asks to ignore a relative path.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "asr-service"


class Settings(BaseSettings):
    """All settings. Frozen: a change needs a restart."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter=_DELIMITER,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
    )

    model: Annotated[str, StringConstraints(min_length=1)] = Field(
        default="whisper-base",
        description="`whisper-base` (in the package), a Hugging Face id such as `zai-org/GLM-ASR-Nano-2512` or "
        "`openai/whisper-large-v3-turbo`, or the path of a folder with a checkpoint.",
    )
    model_revision: str | None = Field(
        default=None,
        description="Commit, tag or branch of a Hugging Face model. Unset: a pinned commit for GLM-ASR-Nano-2512, "
        "`main` for others.",
    )
    model_aliases: str = Field(
        default="whisper-1",
        description="Other names, separated by commas, by which clients of OpenAI's API may name the model.",
    )
    device: str = Field(default="auto", description="`auto` (the first GPU, else the CPU), `cpu`, `cuda` or `cuda:N`.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the model. `auto`: bfloat16 where the device has it, else float32.",
    )
    encoder: Literal["auto", "exact", "cached"] = Field(
        default="auto",
        description="`exact` computes every window padded to 30 s; `cached` computes the audio only and takes the "
        "padding's states from a cache, many times as fast for short clips. `auto`: cached for Whisper, exact for "
        "GLM-ASR.",
    )
    quantization: Literal["none", "int8"] = Field(
        default="none",
        description="`int8` keeps the weights of linear layers in 8 bits and rounds their inputs as they come: about "
        "half the memory, and faster where memory is the limit.",
    )
    aligner: Annotated[str, StringConstraints(min_length=1)] = Field(
        default="auto",
        description="What finds the times of words, when a request asks for them: a Whisper model, named as "
        "`ASR_MODEL` is, `auto` (the served model itself where it is a Whisper, else the packaged `whisper-base`), or "
        "`none`.",
    )
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of the engine; 0 means one per core.")
    max_batch: int = Field(
        default=16,
        ge=1,
        le=512,
        description="Windows (at most 30 s of audio each) that are transcribed at the same time.",
    )
    cache_dir: Path = Field(
        default_factory=_default_cache_dir,
        description="Where converted models are kept. Default: `$XDG_CACHE_HOME/asr-service`, or "
        "`~/.cache/asr-service`.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    trusted_proxies: str = Field(
        default="",
        description="Addresses and networks, separated by commas, of proxies in front of the service (nginx on the "
        "same machine: `127.0.0.1`). Only what comes from them is believed in `X-Forwarded-For` and "
        "`X-Forwarded-Proto`; by default nobody is.",
    )
    auth: AuthSettings = Field(default_factory=AuthSettings, description="Who may use the service.")
    rate_limit: RateLimitSettings = Field(default_factory=RateLimitSettings, description="How much one caller may use.")
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis that holds the limits of several service processes together, `redis://…`; unset: each "
        "process counts for itself.",
    )
    cors_origins: str = Field(
        default="",
        description="Web pages that may use the service from a browser: exact origins such as `https://app.example`, "
        "separated by commas, or `*` for all. Empty: none.",
    )
    ui: bool = Field(
        default=True, description="Whether there is a web page at `/ui`. It needs `asr-service[ui]`, see docs/ui.md."
    )
    max_upload_mb: int = Field(default=512, ge=1, le=65536, description="Largest request body, in MiB.")
    max_audio_s: int = Field(default=14_400, ge=1, le=604_800, description="Longest recording, in seconds (4 hours).")
    decode_workers: int = Field(
        default=0, ge=0, le=256, description="Processes that decode audio; 0 means one more than there are cores."
    )
    decode_memory_mb: int = Field(
        default=512, ge=64, le=65536, description="Memory that one decoding process may use for a recording, in MiB."
    )
    windows_in_flight: int = Field(
        default=12,
        ge=1,
        le=512,
        description="Windows of one request that may be in the engine at once: a long file's share.",
    )
    max_queue: int = Field(
        default=128, ge=1, le=10_000, description="Requests in work or waiting; more are refused with 503 `overloaded`."
    )
    max_queue_audio_s: int = Field(
        default=7200,
        ge=1,
        le=604_800,
        description="Seconds of audio that may wait to be transcribed, of all requests together; more is refused with "
        "503 `overloaded`. A single recording that is longer is taken when nothing else waits.",
    )
    upload_timeout_s: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="Longest pause in an upload, in seconds; less than 1 KiB/s over that time is too slow as well.",
    )
    request_timeout_s: float = Field(
        default=3600,
        gt=0,
        le=604_800,
        description="Time for a request from the end of its upload to the end of its answer, in seconds; what is not "
        "finished then is cancelled with 504 `deadline_exceeded`.",
    )
    shutdown_grace_s: float = Field(
        default=30,
        ge=1,
        le=3600,
        description="On SIGTERM, requests in work may go on so long, in seconds, before they are cancelled.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message to log: `debug`, `info`, `warning` or `error`."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json`, `console`, or `auto`: console on a terminal, JSON elsewhere."
    )
    realtime: RealtimeSettings = Field(default_factory=RealtimeSettings, description="Live sessions over WebSocket.")
    traces: TracesSettings = Field(default_factory=TracesSettings, description="Where traces are sent.")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("it should be auto, cpu, cuda, or a GPU's number such as cuda:1")
        return device

    @field_validator("cors_origins")
    @classmethod
    def _exact_origins(cls, text: str) -> str:
        if text.strip() == "*":
            return text
        for origin in _listed(text):
            if not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?", origin):
                raise ValueError(
                    "it should be origins as browsers write them, with the scheme, in small letters, without a path, "
                    "such as https://app.example,http://localhost:3000; or * alone, for every page"
                )
        return text

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: str) -> str:
        for name in _listed(given):
            try:
                ipaddress.ip_network(name)
            except ValueError:
                raise ValueError(
                    f"{name!r} is neither an address nor a network such as 10.0.0.0/8; names and * are not taken, "
                    "since whoever is trusted here can claim any address"
                ) from None
        return given

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            known = parts.scheme in ("redis", "rediss", "unix") and bool(parts.hostname or parts.path)
            known = known and (parts.port is None or parts.port > 0)
        except ValueError:
            known = False
        if not known:
            raise ValueError("it should be redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
        return url

    @field_validator("cache_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @model_validator(mode="after")
    def _safe_address(self) -> Self:
        if self.auth.mode == "none" and not _is_loopback(self.host):
            raise ValueError(
                f"ASR_HOST={self.host!r} is not a loopback address, and without authentication the service listens on "
                "127.0.0.0/8, ::1 or localhost only; put a proxy that authenticates in front of it"
            )
        return self

    @classmethod
    def load(cls, variables: Mapping[str, str] = MappingProxyType({}), /, **overrides: object) -> Self:
        """Settings from the environment, as if `variables` were set in it as well.

        `overrides` (fields that are not None) take precedence over both. Raises SettingsError with a sentence for each
        problem, unknown variables among them.
        """
        given = _tree(variables) | {name: value for name, value in overrides.items() if value is not None}
        ours = [name for name in sorted(os.environ) if name.upper().startswith(_PREFIX)]
        problems = list(_unknown_variables((*ours, *variables)))
        try:
            settings = cls(**given)
        except ValidationError as error:
            problems += [_sentence(dict(detail)) for detail in error.errors(include_url=False)]
        except SourceError as error:
            # A variable for a whole group, which is unknown here, and not even JSON.
            problems = problems or [str(error)]
        if problems:
            raise SettingsError(problems)
        return settings

    @property
    def decode_worker_count(self) -> int:
        return self.decode_workers or len(os.sched_getaffinity(0)) + 1

    @property
    def other_model_names(self) -> tuple[str, ...]:
        return _listed(self.model_aliases)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        return _listed(self.cors_origins)

    @property
    def trusted_proxy_networks(self) -> tuple[str, ...]:
        return _listed(self.trusted_proxies)

    def changed(self) -> dict[str, object]:
        """The variables whose values are not the defaults, as a log may show them: secrets are masked."""
        default = type(self).model_construct()
        return {
            variable: masked(value)
            for variable, path, _ in leaves(type(self), _PREFIX, _DELIMITER)
            if (value := value_at(self, path)) != value_at(default, path)
        }

    def secrets(self) -> tuple[str, ...]:
        """What must appear in no log."""
        values = (value_at(self, path) for _, path, _ in leaves(type(self), _PREFIX, _DELIMITER))
        texts = (text for value in values if isinstance(value, SecretStr) for text in texts_of(value))
        return (*texts, *self.traces.fields.values())

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * 1024 * 1024


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def variables(tree: type[BaseModel] = Settings, prefix: str = _PREFIX) -> Iterator[str]:
    """The names of all variables, such as ASR_AUTH__MODE."""
    for variable, _, _ in leaves(tree, prefix, _DELIMITER):
        yield variable


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tree(given: Mapping[str, str]) -> dict[str, Any]:
    """Values of variables by field: ASR_AUTH__MODE=none becomes {"auth": {"mode": "none"}}. Leaves out unknown ones."""
    values = {name.upper(): value for name, value in given.items()}
    tree: dict[str, Any] = {}
    for variable in variables():
        if value := values.get(variable):
            *branches, leaf = variable.removeprefix(_PREFIX).lower().split(_DELIMITER)
            branch = tree
            for name in branches:
                branch = branch.setdefault(name, {})
            branch[leaf] = value
    return tree


def _unknown_variables(names: Iterable[str]) -> Iterator[str]:
    known = list(variables())
    for name in names:
        if name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists all settings"
            yield f"{name} is not a setting of this service; {hint}"


def _sentence(detail: dict[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    variable = _PREFIX + _DELIMITER.join(str(part) for part in detail["loc"]).upper()
    if variable not in variables():
        # About several settings together. The input is all of them, secrets among them.
        return message if detail["type"] == "value_error" else f"{variable} cannot be used: {message.lower()}"
    secret = any(name == variable and secret for name, _, secret in leaves(Settings, _PREFIX, _DELIMITER))
    value = MASK if secret else repr(str(masked(detail["input"])))
    return f"{variable}={value} cannot be used: {message[0].lower()}{message[1:]}"
