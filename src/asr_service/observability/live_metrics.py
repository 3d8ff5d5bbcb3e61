"""What is counted of live sessions.

Owns names, labels and buckets of these metrics; `metrics` has all others and the registry.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DRAFTS = ("used", "superseded", "dropped")
_ENDINGS = ("completed", "failed")


class LiveMetrics:
    """The metrics of all live sessions of a service."""

    def __init__(self, registry: CollectorRegistry, audio: Counter, seconds: Sequence[float]) -> None:
        """`audio` is the service's count of transcribed audio; `seconds` are its buckets for times."""
        self._audio = audio
        self._sessions = Gauge("asr_live_sessions", "Live sessions that are open.", registry=registry)
        self._utterances = Counter(
            "asr_live_utterances", "Utterances of live sessions, by how they ended.", ("ending",), registry=registry
        )
        self._final_time = Histogram(
            "asr_live_final_seconds",
            "Time from the end of an utterance's silence to its final text.",
            buckets=seconds,
            registry=registry,
        )
        self._drafts = Counter(
            "asr_live_drafts",
            "Transcriptions of speech that was still going on, by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self._draft_age = Histogram(
            "asr_live_draft_age_seconds",
            "How far drafts were behind the audio when they came.",
            buckets=seconds,
            registry=registry,
        )
        self._listener_restarts = Counter(
            "asr_listener_restarts", "Listening processes that died and were replaced.", registry=registry
        )
        for ending in _ENDINGS:
            self._utterances.labels(ending)
        for outcome in _DRAFTS:
            self._drafts.labels(outcome)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count a session as open."""
        with self._sessions.track_inprogress():
            yield

    def utterance_ended(self, ending: str, audio_s: float = 0.0) -> None:
        """Count an utterance that `completed` or `failed`, and the audio that was transcribed of it."""
        self._utterances.labels(ending).inc()
        self._audio.inc(audio_s)

    def draft(self, outcome: str) -> None:
        """Count a draft that was `used`, or `superseded` or `dropped` before it was done."""
        self._drafts.labels(outcome).inc()

    def draft_age(self, seconds: float) -> None:
        """Observe how much audio had come since that of a draft."""
        self._draft_age.observe(seconds)

    def final(self, seconds: float) -> None:
        """Observe how long a final text took."""
        self._final_time.observe(seconds)

    def listener_restarted(self) -> None:
        """Count a listening process that was replaced."""
        self._listener_restarts.inc()
