"""What else is read from the environment: what child processes may see of it, and where the service manager listens.

Owns the lists of names. Decode workers get no credentials, and no process but the API sees an ASR_ variable.
"""

import os
from dataclasses import dataclass

_CHILD_NAMES = frozenset(
    ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
)
_ENGINE_NAMES = frozenset(
    ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "XDG_CACHE_HOME")
    + ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
)
_ENGINE_PREFIXES = ("HF_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "KMP_")


def decoder_environment() -> dict[str, str]:
    """What a decode worker sees of the environment: enough to run Python, no credentials."""
    return {name: value for name, value in os.environ.items() if name in _CHILD_NAMES}


def engine_environment() -> dict[str, str]:
    """What an engine sees: the same, and what it needs to reach the model hub and the GPU. Never an ASR_ variable."""
    chosen = decoder_environment()
    for name, value in os.environ.items():
        if name.upper() in _ENGINE_NAMES or name.startswith(_ENGINE_PREFIXES):
            chosen[name] = value
    return chosen


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Where systemd wants to hear from the service, and how often: sd_notify(3), sd_watchdog_enabled(3)."""

    address: str | None
    watchdog_s: float | None

    @classmethod
    def found(cls) -> "ServiceManager":
        """What systemd has told this process; nothing, if it was started by something else."""
        period_us = os.environ.get("WATCHDOG_USEC", "")
        meant_for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = meant_for_us and period_us.isdecimal() and int(period_us) > 0
        return cls(os.environ.get("NOTIFY_SOCKET") or None, int(period_us) / 1e6 if watched else None)
