"""The metrics of engines: what each of them reports, under its own name.

Owns names, labels and buckets of what comes from an engine. Every one carries the label `engine`, gauges above all: one
engine's gauge must not overwrite another's, and a sum over the label is right for all of them, however many there are.
Must not know the engine beyond the messages it sends.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from asr_service.domain import ModelInfo
from asr_service.engine.messages import Stats

_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
_LABELS = ("engine",)


class EngineFamilies:
    """What all engines of a service have in common."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.model = Info("asr_model", "The loaded model.", _LABELS, registry=registry)
        self.model_memory = Gauge(
            "asr_model_memory_bytes", "Memory of the loaded model with its caches.", _LABELS, registry=registry
        )
        self.model_load = Gauge(
            "asr_model_load_seconds", "Time that the model took to load and warm up.", _LABELS, registry=registry
        )
        self.slots = Gauge("asr_engine_slots", "Windows that can hold a slot at once.", _LABELS, registry=registry)
        self.waiting = Gauge("asr_engine_waiting", "Windows that wait for a slot.", _LABELS, registry=registry)
        self.running = Gauge("asr_engine_running", "Windows that hold a slot.", _LABELS, registry=registry)
        self.memory = Gauge(
            "asr_engine_memory_bytes", "Memory of its device that the engine holds.", _LABELS, registry=registry
        )
        self.memory_total = Gauge(
            "asr_engine_memory_total_bytes", "Memory that the engine's device has.", _LABELS, registry=registry
        )
        self.batch_size = Histogram(
            "asr_engine_batch_size", "Windows in each decoder step.", _LABELS, buckets=_BATCH, registry=registry
        )
        self.tokens = Counter("asr_engine_tokens", "Tokens that were generated.", _LABELS, registry=registry)
        self.frames = Counter(
            "asr_engine_encoder_frames",
            "Encoder frames. kind: real (audio) or padded (all that were computed, padding included).",
            (*_LABELS, "kind"),
            registry=registry,
        )
        self.restarts = Counter(
            "asr_engine_restarts", "Times that an engine died and was started again.", _LABELS, registry=registry
        )


class EngineMetrics:
    """The metrics of one engine."""

    def __init__(self, families: EngineFamilies, name: str) -> None:
        self._model = families.model.labels(name)
        self._model_memory = families.model_memory.labels(name)
        self._model_load = families.model_load.labels(name)
        self._slots = families.slots.labels(name)
        self._waiting = families.waiting.labels(name)
        self._running = families.running.labels(name)
        self._memory = families.memory.labels(name)
        self._memory_total = families.memory_total.labels(name)
        self._batch_size = families.batch_size.labels(name)
        self._tokens = families.tokens.labels(name)
        self._frames_real = families.frames.labels(name, "real")
        self._frames_padded = families.frames.labels(name, "padded")
        self._restarts = families.restarts.labels(name)

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
        self._slots.set(model.slots)

    def observe_stats(self, stats: Stats) -> None:
        """Take in what the engine reports."""
        self._waiting.set(stats.waiting)
        self._running.set(stats.running)
        self._memory.set(stats.memory_bytes)
        self._memory_total.set(stats.memory_total_bytes)
        for size in stats.batch_sizes:
            self._batch_size.observe(size)
        self._tokens.inc(stats.tokens)
        self._frames_real.inc(stats.frames_real)
        self._frames_padded.inc(stats.frames_padded)

    def restarted(self) -> None:
        """Count a restart; what the dead engine was doing, and held, is void."""
        self._restarts.inc()
        for gauge in (self._waiting, self._running, self._memory):
            gauge.set(0)
