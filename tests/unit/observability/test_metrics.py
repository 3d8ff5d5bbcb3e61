"""Metrics: what is counted, and that each is documented."""

import dataclasses
import re
from pathlib import Path

import pytest

from asr_service.domain import Timings, Transcript
from asr_service.engine.messages import Stats
from asr_service.observability.metrics import Metrics
from tests.fakes import WHISPER

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def stats(waiting: int = 0, running: int = 0, tokens: int = 0, sizes: tuple[int, ...] = ()) -> Stats:
    return Stats(waiting, running, list(sizes), tokens, 900, 1500, memory_bytes=7_000, memory_total_bytes=9_000)


def test_takes_in_what_an_engine_reports() -> None:
    metrics = Metrics()
    engine = metrics.engine()

    engine.observe_stats(stats(waiting=3, running=2, tokens=5, sizes=(1, 2, 2)))
    engine.observe_stats(stats(waiting=1, running=4, tokens=1))

    assert value(metrics, "asr_engine_waiting", engine="0") == 1
    assert value(metrics, "asr_engine_running", engine="0") == 4
    assert value(metrics, "asr_engine_batch_size_count", engine="0") == 3
    assert value(metrics, "asr_engine_batch_size_sum", engine="0") == 5
    assert value(metrics, "asr_engine_batch_size_bucket", engine="0", le="1.0") == 1
    assert value(metrics, "asr_engine_tokens_total", engine="0") == 6
    assert value(metrics, "asr_engine_encoder_frames_total", engine="0", kind="real") == 1800
    assert value(metrics, "asr_engine_encoder_frames_total", engine="0", kind="padded") == 3000
    assert value(metrics, "asr_engine_memory_bytes", engine="0") == 7_000
    assert value(metrics, "asr_engine_memory_total_bytes", engine="0") == 9_000


def test_several_engines_add_up() -> None:
    metrics = Metrics()
    first, second = metrics.engine("0"), metrics.engine("1")

    for engine in (first, second):
        engine.model_loaded(WHISPER)
        engine.observe_stats(stats(waiting=3, running=2, tokens=5, sizes=(2,)))
    first.observe_stats(stats(waiting=1, running=4, tokens=1))
    second.restarted()

    def both(name: str, **labels: str) -> list[float | None]:
        return [value(metrics, name, engine=engine, **labels) for engine in ("0", "1")]

    assert both("asr_engine_waiting") == [1, 0]
    assert both("asr_engine_running") == [4, 0]
    assert both("asr_engine_slots") == [WHISPER.slots, WHISPER.slots]
    assert both("asr_engine_tokens_total") == [6, 5]
    assert both("asr_engine_restarts_total") == [0, 1]


def test_a_metric_of_an_engine_says_which() -> None:
    metrics = Metrics()
    metrics.engine().model_loaded(WHISPER)
    samples = [
        sample
        for family in metrics.registry.collect()
        if family.name.startswith(("asr_engine", "asr_model"))
        for sample in family.samples
    ]

    assert len(samples) > 20
    assert [sample.name for sample in samples if "engine" not in sample.labels] == []


def test_a_restart_voids_what_the_engine_was_doing() -> None:
    metrics = Metrics()
    engine = metrics.engine()
    engine.observe_stats(stats(waiting=3, running=2))

    engine.restarted()

    assert value(metrics, "asr_engine_restarts_total", engine="0") == 1
    for gauge in ("waiting", "running", "memory_bytes"):
        assert value(metrics, f"asr_engine_{gauge}", engine="0") == 0


def test_observes_the_stages_of_a_transcription_in_seconds() -> None:
    metrics = Metrics()
    timings = Timings(decode_ms=10, vad_ms=20, queue_ms=30, encode_ms=40, decode_steps_ms=50, total_ms=600, align_ms=70)
    timings = dataclasses.replace(timings, first_token_ms=80)

    metrics.transcribed(Transcript("hi", "en", 3.0, "m", (), timings))

    stages = {
        stage: value(metrics, "asr_request_stage_seconds_sum", stage=stage)
        for stage in ("decode", "vad", "queue", "encode", "first_token", "generation", "align", "total")
    }
    assert stages == {
        "decode": 0.01,
        "vad": 0.02,
        "queue": 0.03,
        "encode": 0.04,
        "first_token": 0.08,
        "generation": 0.05,
        "align": 0.07,
        "total": 0.6,
    }
    assert value(metrics, "asr_audio_seconds_total") == 3.0
    assert value(metrics, "asr_rtf_sum") == pytest.approx(0.2)


def test_windows_whose_words_could_not_be_aligned_are_counted() -> None:
    metrics = Metrics()
    metrics.words_unaligned()
    assert value(metrics, "asr_unaligned_windows_total") == 1


def test_a_recording_without_length_has_no_real_time_factor() -> None:
    metrics = Metrics()

    metrics.transcribed(Transcript("", None, 0.0, "m", (), Timings(1, 1, 0, 0, 0, 2)))

    assert value(metrics, "asr_rtf_count") == 0


def test_a_recording_without_speech_has_no_first_token() -> None:
    metrics = Metrics()

    metrics.transcribed(Transcript("", None, 1.0, "m", (), Timings(1, 1, 0, 0, 0, 2)))

    assert value(metrics, "asr_request_stage_seconds_count", stage="first_token") is None
    assert value(metrics, "asr_request_stage_seconds_count", stage="total") == 1


def test_requests_are_timed_by_route_and_kind_of_caller() -> None:
    metrics = Metrics()

    metrics.request_ended("/transcribe", "POST", 200, "ok", caller="key", seconds=1.5)
    metrics.request_ended("/transcribe", "POST", 503, "overloaded", caller="key", seconds=0.5)

    assert value(metrics, "asr_request_seconds_sum", route="/transcribe", caller="key") == 2.0
    full = {"route": "/transcribe", "method": "POST", "status": "503", "code": "overloaded"}
    assert value(metrics, "asr_requests_total", **full) == 1


def test_the_queue_is_asked_when_metrics_are_read() -> None:
    metrics = Metrics()

    metrics.watch_queue(lambda: 3, lambda: 40.5, lambda: 7.25)

    assert value(metrics, "asr_queue_requests") == 3
    assert value(metrics, "asr_queue_audio_seconds") == 40.5
    assert value(metrics, "asr_queue_age_seconds") == 7.25


@pytest.mark.parametrize("family", ["asr_refusals", "asr_auth_refused", "asr_rate_limited", "asr_guard_hits"])
def test_the_first_event_of_a_kind_is_an_increase(family: str) -> None:
    """Prometheus sees none in a series that begins with 1. The values are those that the documentation names."""
    metrics = Metrics()
    (samples,) = (found.samples for found in metrics.registry.collect() if found.name == family)
    (row,) = (line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{family}_total`"))

    assert {sample.value for sample in samples} == {0.0}
    ((label,),) = {tuple(sample.labels) for sample in samples}
    _, _, _, labels, meaning, _ = row.split("|")
    assert labels.strip() == f"`{label}`"
    assert {sample.labels[label] for sample in samples} == set(re.findall(r"`([a-z_]+)`", meaning))


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

    first.decode_worker_restarted("exit")

    assert value(first, "asr_decode_worker_restarts_total", reason="exit") == 1
    assert value(second, "asr_decode_worker_restarts_total", reason="exit") == 0


def exported() -> dict[str, set[str]]:
    """All metrics that there are, with their labels."""
    metrics = Metrics()
    metrics.engine().model_loaded(WHISPER)
    metrics.transcribed(Transcript("", None, 1.0, "m", (), Timings(1, 1, 0, 0, 0, 2, first_token_ms=1)))
    metrics.request_ended("/transcribe", "POST", 200, "ok", caller="key", seconds=1)
    metrics.decode_worker_restarted("exit")
    return {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, ""): {
            label for sample in family.samples for label in sample.labels
        }
        - {"le"}
        for family in metrics.registry.collect()
    }


def documented() -> dict[str, set[str]]:
    """The metrics of the tables in docs/metrics.md, with their labels."""
    rows = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| `asr_")]
    return {
        name: set(re.findall(r"`([a-z_]+)`", labels))
        for _, names, _, labels, *_ in rows
        for name in re.findall(r"`(asr_[a-z_]+)`", names)
    }


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    assert len(exported()) > 30
    assert all(name.startswith("asr_") for name in exported())
    assert documented() == exported()


def test_counts_refusals_by_limits_and_watches_their_store() -> None:
    metrics, up = Metrics(), True
    assert value(metrics, "asr_rate_limit_store_up") == 1

    metrics.watch_limit_store(lambda: up)
    up = False
    metrics.rate_limited("requests")
    metrics.limit_store_failed()

    assert value(metrics, "asr_rate_limited_total", limit="requests") == 1
    assert value(metrics, "asr_rate_limit_store_up") == 0
    assert value(metrics, "asr_rate_limit_store_failures_total") == 1
