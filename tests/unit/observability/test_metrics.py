"""Metrics: what is counted, and that each is documented."""

from pathlib import Path

import pytest

from asr_service.domain import Timings, Transcript
from asr_service.engine.messages import Stats
from asr_service.observability.metrics import Metrics
from tests.fakes import WHISPER

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_takes_in_what_an_engine_reports() -> None:
    metrics = Metrics()

    metrics.observe_stats(
        Stats(waiting=3, running=2, batch_sizes=[1, 2, 2], tokens=5, frames_real=900, frames_padded=1500)
    )
    metrics.observe_stats(Stats(waiting=1, running=4, batch_sizes=[], tokens=1, frames_real=0, frames_padded=0))

    assert value(metrics, "asr_engine_waiting") == 1
    assert value(metrics, "asr_engine_running") == 4
    assert value(metrics, "asr_engine_batch_size_count") == 3
    assert value(metrics, "asr_engine_batch_size_sum") == 5
    assert value(metrics, "asr_engine_batch_size_bucket", le="1.0") == 1
    assert value(metrics, "asr_engine_tokens_total") == 6
    assert value(metrics, "asr_engine_encoder_frames_total", kind="real") == 900
    assert value(metrics, "asr_engine_encoder_frames_total", kind="padded") == 1500


def test_a_restart_voids_what_the_engine_was_doing() -> None:
    metrics = Metrics()
    metrics.observe_stats(Stats(waiting=3, running=2, batch_sizes=[], tokens=0, frames_real=0, frames_padded=0))

    metrics.engine_restarted()

    assert value(metrics, "asr_engine_restarts_total") == 1
    assert (value(metrics, "asr_engine_waiting"), value(metrics, "asr_engine_running")) == (0, 0)


def test_observes_the_stages_of_a_transcription_in_seconds() -> None:
    metrics = Metrics()
    timings = Timings(decode_ms=10, vad_ms=20, queue_ms=30, encode_ms=40, decode_steps_ms=50, total_ms=600)

    metrics.transcribed(Transcript("hi", "en", 3.0, "m", (), timings))

    stages = {
        stage: value(metrics, "asr_request_stage_seconds_sum", stage=stage)
        for stage in ("decode", "vad", "queue", "encode", "generation", "total")
    }
    assert stages == {"decode": 0.01, "vad": 0.02, "queue": 0.03, "encode": 0.04, "generation": 0.05, "total": 0.6}
    assert value(metrics, "asr_audio_seconds_total") == 3.0
    assert value(metrics, "asr_rtf_sum") == pytest.approx(0.2)


def test_a_recording_without_length_has_no_real_time_factor() -> None:
    metrics = Metrics()

    metrics.transcribed(Transcript("", None, 0.0, "m", (), Timings(1, 1, 0, 0, 0, 2)))

    assert value(metrics, "asr_rtf_count") == 0


def test_readiness_is_asked_when_metrics_are_read() -> None:
    metrics, ready = Metrics(), False
    metrics.watch_ready(lambda: ready)
    assert b"\nasr_ready 0.0\n" in metrics.render()

    ready = True

    assert b"\nasr_ready 1.0\n" in metrics.render()


def test_requests_in_flight_are_let_go_after_errors() -> None:
    metrics = Metrics()

    def fails() -> None:
        with metrics.transcribing():
            assert value(metrics, "asr_requests_in_flight") == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()

    assert value(metrics, "asr_requests_in_flight") == 0


def test_two_services_in_one_process_do_not_share_metrics() -> None:
    first, second = Metrics(), Metrics()

    first.decode_worker_restarted()

    assert value(first, "asr_decode_worker_restarts_total") == 1
    assert value(second, "asr_decode_worker_restarts_total") == 0


def test_every_metric_has_the_prefix_and_is_documented() -> None:
    metrics = Metrics()
    metrics.model_loaded(WHISPER)
    documented = DOCS.read_text()
    families = list(metrics.registry.collect())
    assert len(families) > 20
    for family in families:
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        assert name.startswith("asr_")
        assert f"`{name}`" in documented, f"{name} is missing in docs/metrics.md"
