"""Every metric of the service, in one place.

Owns names, labels and buckets; docs/metrics.md describes each. Holds no global: whoever builds a service makes one
`Metrics` and hands it on. Must not know HTTP frameworks or the engine beyond the messages it sends.
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
from asr_service.domain import ModelInfo, Transcript
from asr_service.engine.messages import Stats

# From a short clip on a GPU to hours of audio on a CPU. Dense between 50 ms and 5 s, where short requests live.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300, 900)
_RTF = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5)
_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)


class Metrics:
    """The metrics of one service, with a registry of their own."""

    def __init__(self) -> None:
        # For the whole process: a time of creation beside each series would double what is scraped.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(namespace="asr", registry=registry)
        self._build = Info("asr_build", "Version of the service.", registry=registry)
        self._build.info({"version": asr_service.__version__, "python": platform.python_version()})
        self._model = Info("asr_model", "The loaded model.", registry=registry)
        self._model_memory = Gauge(
            "asr_model_memory_bytes", "Memory of the loaded model with its caches.", registry=registry
        )
        self._model_load = Gauge(
            "asr_model_load_seconds", "Time that the model took to load and warm up.", registry=registry
        )
        self._ready = Gauge("asr_ready", "1 when windows are being served, else 0.", registry=registry)

        self._requests = Counter(
            "asr_requests",
            "Answered HTTP requests. code: the error code, or ok.",
            ("route", "method", "status", "code"),
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
        self._refusals = Counter(
            "asr_refusals", "Requests that were not admitted, by reason.", ("reason",), registry=registry
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

        self._waiting = Gauge("asr_engine_waiting", "Windows that wait for a slot.", registry=registry)
        self._running = Gauge("asr_engine_running", "Windows that hold a slot.", registry=registry)
        self._batch_size = Histogram(
            "asr_engine_batch_size", "Windows in each decoder step.", buckets=_BATCH, registry=registry
        )
        self._tokens = Counter("asr_engine_tokens", "Tokens that were generated.", registry=registry)
        self._frames = Counter(
            "asr_engine_encoder_frames",
            "Encoder frames. kind: real (audio) or padded (all that were computed, padding included).",
            ("kind",),
            registry=registry,
        )
        self._guards = Counter(
            "asr_guard_hits", "Runaway outputs that were stopped, by kind.", ("kind",), registry=registry
        )
        self._engine_restarts = Counter(
            "asr_engine_restarts", "Times that an engine died and was started again.", registry=registry
        )
        self._decoder_restarts = Counter(
            "asr_decode_worker_restarts", "Times that a decode worker died and was replaced.", registry=registry
        )

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def watch_ready(self, is_ready: Callable[[], bool]) -> None:
        """Ask `is_ready` whenever the metrics are read."""
        self._ready.set_function(lambda: float(is_ready()))

    def watch_queue(self, requests: Callable[[], int], audio_s: Callable[[], float]) -> None:
        """Ask how much is admitted whenever the metrics are read."""
        self._queue_requests.set_function(lambda: float(requests()))
        self._queue_audio.set_function(audio_s)

    def refused(self, reason: str) -> None:
        """Count a request that was not admitted."""
        self._refusals.labels(reason).inc()

    def model_loaded(self, model: ModelInfo) -> None:
        """Describe the model that serves."""
        self._model.info(
            {
                "name": model.name,
                "family": model.family,
                "device": model.device,
                "dtype": model.dtype,
                "slots": str(model.slots),
            }
        )
        self._model_memory.set(model.memory_bytes)
        self._model_load.set(model.load_s)

    def request_ended(self, route: str, method: str, status: int, code: str) -> None:
        """Count an answered request. `route` is a template such as /transcribe, never a raw path."""
        self._requests.labels(route, method, str(status), code).inc()

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
            ("total", timings.total_ms),
        ):
            self._stages.labels(stage).observe(milliseconds / 1000)
        self._audio.inc(transcript.duration_s)
        if transcript.duration_s > 0:
            self._rtf.observe(timings.total_ms / 1000 / transcript.duration_s)

    def guard_hit(self, kind: str) -> None:
        """Count a runaway output that was stopped."""
        self._guards.labels(kind).inc()

    def observe_stats(self, stats: Stats) -> None:
        """Take in what an engine reports."""
        self._waiting.set(stats.waiting)
        self._running.set(stats.running)
        for size in stats.batch_sizes:
            self._batch_size.observe(size)
        self._tokens.inc(stats.tokens)
        self._frames.labels("real").inc(stats.frames_real)
        self._frames.labels("padded").inc(stats.frames_padded)

    def engine_restarted(self) -> None:
        """Count a restart; what the dead engine was doing is void."""
        self._engine_restarts.inc()
        self._waiting.set(0)
        self._running.set(0)

    def decode_worker_restarted(self) -> None:
        """Count a replaced decode worker."""
        self._decoder_restarts.inc()
