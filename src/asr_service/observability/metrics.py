"""The metrics of the service; those of its engines stand beside it in `engine_metrics`.

Owns the registry, and names, labels and buckets; docs/metrics.md describes each. Holds no global: whoever builds a
service makes one `Metrics` and hands it on. Must not know HTTP frameworks.

Counters whose labels have a few known values begin with a series for each: Prometheus sees no increase in a series that
appears with its first event, so an alert would miss just that one.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

import asr_service
from asr_service.domain import Transcript
from asr_service.observability.engine_metrics import EngineFamilies, EngineMetrics
from asr_service.observability.live_metrics import LiveMetrics

# From the voice activity of a short clip to hours of audio on a CPU. Dense between 50 ms and 5 s, where short requests
# live.
_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75),
    *(1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300, 900),
)
_RTF = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10)

_REFUSALS = ("requests", "audio", "sessions", "shutting_down")
_AUTH_REFUSALS = (
    *("missing", "malformed", "unknown", "expired", "revoked", "claims"),
    *("scope", "failures", "unavailable"),
)
_LIMITS = ("requests", "audio_minute", "audio_day", "concurrent", "failed_logins")
_GUARDS = ("loop", "budget")
_WORKER_ENDS = ("dismissed", "forbidden_call", "cpu_time", "killed", "signal", "exit")


class Metrics:
    """The metrics of one service, with a registry of their own."""

    def __init__(self) -> None:
        # For the whole process: a time of creation beside each series would double what is scraped.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(namespace="asr", registry=registry)
        self._build = Info("asr_build", "Version of the service.", registry=registry)
        self._build.info({"version": asr_service.__version__, "python": platform.python_version()})
        self._ready = Gauge("asr_ready", "1 when windows are being served, else 0.", registry=registry)

        self._requests = Counter(
            "asr_requests",
            "Answered HTTP requests. code: the error code, or ok.",
            ("route", "method", "status", "code"),
            registry=registry,
        )
        self._request_time = Histogram(
            "asr_request_seconds",
            "Time of HTTP requests from their first byte to the end of the answer. caller: how it was recognised.",
            ("route", "caller"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "asr_requests_in_flight", "Transcription requests that are being handled.", registry=registry
        )
        self._queue_requests = Gauge(
            "asr_queue_requests", "Requests that were admitted and are not answered yet.", registry=registry
        )
        self._queue_audio = Gauge(
            "asr_queue_audio_seconds", "Audio that was admitted and is not transcribed yet.", registry=registry
        )
        self._queue_age = Gauge(
            "asr_queue_age_seconds", "Wait of the recording that waits longest for its first token.", registry=registry
        )
        self._refusals = Counter(
            "asr_refusals", "Requests that were not admitted, by reason.", ("reason",), registry=registry
        )
        self._auth_refusals = Counter(
            "asr_auth_refused", "Requests without credentials that count, by reason.", ("reason",), registry=registry
        )
        self._rate_limited = Counter(
            "asr_rate_limited", "Requests and recordings over a limit of their caller.", ("limit",), registry=registry
        )
        self._limit_store_up = Gauge(
            "asr_rate_limit_store_up", "1 while limits are counted where they should be, else 0.", registry=registry
        )
        self._limit_store_up.set(1)
        self._limit_store_failures = Counter(
            "asr_rate_limit_store_failures", "Operations that the store of limits did not do.", registry=registry
        )
        self._stages = Histogram(
            "asr_request_stage_seconds",
            "Time of transcription requests by stage.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._audio = Counter("asr_audio_seconds", "Audio that was transcribed.", registry=registry)
        self._rtf = Histogram(
            "asr_rtf", "Real-time factor: processing time / audio time.", buckets=_RTF, registry=registry
        )

        self._guards = Counter(
            "asr_guard_hits", "Runaway outputs that were stopped, by kind.", ("kind",), registry=registry
        )
        self._unaligned = Counter(
            "asr_unaligned_windows", "Windows whose words could not be aligned.", registry=registry
        )
        self._decoder_restarts = Counter(
            "asr_decode_worker_restarts", "Decode workers that ended and were replaced.", ("reason",), registry=registry
        )
        for counter, values in (
            (self._refusals, _REFUSALS),
            (self._auth_refusals, _AUTH_REFUSALS),
            (self._rate_limited, _LIMITS),
            (self._guards, _GUARDS),
            (self._decoder_restarts, _WORKER_ENDS),
        ):
            for value in values:
                counter.labels(value)
        self._engines = EngineFamilies(registry)
        self.live = LiveMetrics(registry, self._audio, _SECONDS)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def engine(self, name: str = "0") -> EngineMetrics:
        """The metrics of one engine of the service, which it must have a name of its own for."""
        return EngineMetrics(self._engines, name)

    def watch_ready(self, is_ready: Callable[[], bool]) -> None:
        """Ask `is_ready` whenever the metrics are read."""
        self._ready.set_function(lambda: float(is_ready()))

    def watch_queue(
        self, requests: Callable[[], int], audio_s: Callable[[], float], oldest_s: Callable[[], float]
    ) -> None:
        """Ask how much is admitted, and how long it has waited, whenever the metrics are read."""
        self._queue_requests.set_function(lambda: float(requests()))
        self._queue_audio.set_function(audio_s)
        self._queue_age.set_function(oldest_s)

    def refused(self, reason: str) -> None:
        """Count a request that was not admitted."""
        self._refusals.labels(reason).inc()

    def rate_limited(self, limit: str) -> None:
        """Count a refusal by one of a caller's limits."""
        self._rate_limited.labels(limit).inc()

    def watch_limit_store(self, is_up: Callable[[], bool]) -> None:
        """Ask `is_up` whenever the metrics are read."""
        self._limit_store_up.set_function(lambda: float(is_up()))

    def limit_store_failed(self) -> None:
        """Count an operation that the store of limits did not do."""
        self._limit_store_failures.inc()

    def auth_refused(self, reason: str) -> None:
        """Count a request whose credentials are missing, do not count, or do not allow what it asks for."""
        self._auth_refusals.labels(reason).inc()

    def request_ended(
        self, route: str, method: str, status: int, code: str, *, caller: str, seconds: float | None
    ) -> None:
        """Count an answered request. `route` is a template such as /transcribe, never a raw path, and `caller` a kind
        of callers, never a name. `seconds`: None for what lasts as long as its caller likes.
        """
        self._requests.labels(route, method, str(status), code).inc()
        if seconds is not None:
            self._request_time.labels(route, caller).observe(seconds)

    @contextmanager
    def transcribing(self) -> Iterator[None]:
        """Count a transcription request as in flight."""
        with self._in_flight.track_inprogress():
            yield

    def upload_ended(self, seconds: float) -> None:
        """Observe how long a request's body took to arrive."""
        self._stages.labels("upload").observe(seconds)

    def transcribed(self, transcript: Transcript) -> None:
        """Observe a finished transcription: its stages, audio and RTF."""
        timings = transcript.timings
        for stage, milliseconds in (
            ("decode", timings.decode_ms),
            ("vad", timings.vad_ms),
            ("queue", timings.queue_ms),
            ("encode", timings.encode_ms),
            ("generation", timings.decode_steps_ms),
            ("align", timings.align_ms),
            ("total", timings.total_ms),
        ):
            self._stages.labels(stage).observe(milliseconds / 1000)
        if timings.first_token_ms is not None:
            self._stages.labels("first_token").observe(timings.first_token_ms / 1000)
        self._audio.inc(transcript.duration_s)
        if transcript.duration_s > 0:
            self._rtf.observe(timings.total_ms / 1000 / transcript.duration_s)

    def guard_hit(self, kind: str) -> None:
        """Count a runaway output that was stopped."""
        self._guards.labels(kind).inc()

    def words_unaligned(self) -> None:
        """Count a window whose words have no times, though they were asked for."""
        self._unaligned.inc()

    def decode_worker_restarted(self, reason: str) -> None:
        """Count a replaced decode worker."""
        self._decoder_restarts.labels(reason).inc()
