"""A soak fails for what is lost, late, grown or left behind, and for nothing else."""

import dataclasses
import random

import pytest

from benchmarks.service import Service
from benchmarks.soak_checks import Run, checks
from benchmarks.soak_clients import NATIVE, Ending, Outcome, Reply
from benchmarks.soak_watch import Footprint, Role, Sample, Watch, largest, lives, quarters

TEXT = "press one to hear the time"
SERVICE = Service()
IDLE = Footprint(open_files=40, children=4, zombies=0, files=0)


def samples(role: Role, pid: int, rss_mb: float, growth_mb_per_s: float = 0.0) -> list[Sample]:
    return [Sample(at_s, role, pid, rss_mb + growth_mb_per_s * at_s) for at_s in range(0, 1200, 5)]


def watch(api_growth_mb_per_s: float = 0.0) -> Watch:
    taken = (
        samples("API", 1, 200.0, api_growth_mb_per_s) + samples("engine", 2, 900.0) + samples("decode worker", 3, 80.0)
    )
    return Watch(SERVICE, random.Random(0), samples=taken, livez_s=[0.01] * 100)


def outcome(kind: str = "short", ending: Ending = "answered", **reply: object) -> Outcome:
    facts = {"route": NATIVE, "status": 200, "code": "ok", "text": TEXT, **reply}
    return Outcome(kind, "clip", 1.0, 0.5, ending, Reply(**facts) if ending == "answered" else None)  # type: ignore[arg-type]


def run_of(*outcomes: Outcome, counted: float | None = None, **changes: object) -> Run:
    """A run in which all is well, but for what is changed."""
    refused = [o.reply for o in outcomes if o.reply is not None and o.reply.code != "ok"]
    counts: dict[tuple[str, ...], float] = {(NATIVE, str(reply.status), reply.code): 1.0 for reply in refused}
    counts[NATIVE, "200", "ok"] = len(outcomes) - len(refused) if counted is None else counted
    run = Run(
        duration_s=1200.0,
        watch=watch(),
        outcomes=outcomes,
        expected={("short", "clip"): TEXT, ("long", "clip"): TEXT},
        before=IDLE,
        after=IDLE,
        counted=counts,
        engine_restarts=0.0,
        worker_ends={"killed": 0.0},
    )
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


def broken(run: Run) -> list[str]:
    return [check.what for check in checks(run) if not check.holds]


def test_a_good_run_passes() -> None:
    assert broken(run_of(outcome(), outcome("long"), outcome("leaves", ending="left"))) == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (run_of(outcome(), outcome(ending="lost")), "requests without an answer"),
        (run_of(outcome(), outcome(ending="hung")), "requests that hang"),
        (run_of(outcome(), outcome("junk")), "junk that is not refused with 4xx"),
        (run_of(outcome(), outcome("broken", status=500, code="internal_error")), "5xx other than 503"),
        (
            run_of(outcome(), outcome(status=400, code="unreadable_audio", detail="It is no audio.")),
            "good recordings with an error but for a killed decoder or 503",
        ),
        (
            run_of(outcome(), outcome(status=400, code="unreadable_audio", detail="it broke the decoder.")),
            "good recordings lost with a killed decode worker",
        ),
        (
            run_of(outcome(), outcome("leaves", status=400, code="unreadable_audio", detail="It is no audio.")),
            "good recordings with an error but for a killed decoder or 503",
        ),
        (run_of(outcome(), outcome(status=503, code="unavailable")), "answers 503"),
        (run_of(outcome(), outcome(text="")), "changed words of all texts"),
        (run_of(outcome(), watch=watch(api_growth_mb_per_s=0.02)), "growth of API, median of a quarter"),
        (run_of(outcome(), after=dataclasses.replace(IDLE, open_files=41)), "open files of the API process at the end"),
        (run_of(outcome(), after=dataclasses.replace(IDLE, files=1)), "temporary files at the end"),
        (run_of(outcome(), counted=0.0), "answers that clients have and the service has not counted"),
        (run_of(outcome(), counted=2.0), "requests that only the service counted"),
        (run_of(outcome(), engine_restarts=1.0), "restarts of the engine counted"),
    ],
)
def test_each_fault_is_named(changed: Run, what: str) -> None:
    assert what in broken(changed)


def test_quarters_leave_out_the_start() -> None:
    figures = [(float(at_s), 1000.0 if at_s < 20 else float(at_s)) for at_s in range(101)]
    assert quarters(figures, 20.0) == (30.0, 90.0)


def test_of_several_processes_the_largest_counts_at_each_time() -> None:
    taken = [Sample(0.0, "decode worker", 1, 80.0), Sample(0.0, "decode worker", 2, 90.0), Sample(5.0, "API", 3, 200.0)]
    assert largest(taken, "decode worker") == [(0.0, 90.0)]


def test_a_process_that_is_replaced_begins_another_life() -> None:
    first, second = samples("engine", 9, 900.0)[:3], samples("engine", 4, 900.0)[3:6]
    assert lives(first + second, "engine") == [first, second]
