"""What must hold after a soak, and its tables. Pure functions of a run, so that they can be tested."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.soak_clients import Outcome
from benchmarks.soak_watch import Footprint, Role, Watch, largest, lives, quarters
from benchmarks.stats import percentile, short, word_error_rate

_WARM_UP_S, _WARM_UP_SHARE = 300.0, 0.25
_FLAT = 0.05
_LIVEZ_P99_S = 0.05
_CHANGED_WORDS = 0.02
_CHANGED_WORDS_OF_ONE = {"short": 0.5, "OpenAI, words": 0.5, "long": 0.1, "long, streamed": 0.1}
"""Batches round differently each time, which may turn a word, of which a clip has few."""

_BROKE_THE_DECODER = "broke the decoder"
_SHORTEST_LIFE = 6
"""Samples of a process that are needed to see its peak."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that a soak has seen.

    expected: first texts by kind and name. counted: the service's own count of answers in the time of the load, by
    route, status and code. engine_restarts and worker_ends (by reason): its counters at the end.
    """

    duration_s: float
    watch: Watch
    outcomes: Sequence[Outcome]
    expected: Mapping[tuple[str, str], str]
    before: Footprint
    after: Footprint
    counted: Mapping[tuple[str, ...], float]
    engine_restarts: float
    worker_ends: Mapping[str, float]

    @property
    def warm_up_s(self) -> float:
        """Memory may grow until then."""
        return min(_WARM_UP_S, _WARM_UP_SHARE * self.duration_s)


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold, what was found, and what is allowed."""

    what: str
    found: str
    allowed: str
    holds: bool

    def row(self) -> dict[str, Any]:
        """For a table."""
        holds = "yes" if self.holds else "NO"
        return {"check": self.what, "found": self.found, "allowed": self.allowed, "holds": holds}


def checks(run: Run) -> list[Check]:
    """Every check, those that hold as well."""
    return [*_of_answers(run), *_of_texts(run), *_of_memory(run), *_of_footprint(run), *_of_counters(run)]


def _at_most(what: str, found: float, limit: float, unit: str = "") -> Check:
    return Check(what, f"{short(found)}{unit}", f"≤ {short(limit)}{unit}", found <= limit)


def _none(what: str, found: Sequence[Outcome]) -> Check:
    examples = "; ".join(f"{o.kind}, {o.about}, at {o.at_s:.0f} s: {o.detail or o.reply}" for o in found[:3])
    return Check(what, f"{len(found)} {examples}".strip(), "0", not found)


def _of_answers(run: Run) -> list[Check]:
    answered = [(o, o.reply) for o in run.outcomes if o.reply is not None]
    good = [(o, r) for o, r in answered if o.kind not in ("broken", "junk")]
    killed = [o for o, r in answered if r.code == "unreadable_audio" and _BROKE_THE_DECODER in r.detail]
    refused = [o for o, r in answered if r.status == 503]
    heard = [o for o, r in answered if o.kind == "junk" and r.status // 100 != 4]
    return [
        _none("requests without an answer", [o for o in run.outcomes if o.ending == "lost"]),
        _none("requests that hang", [o for o in run.outcomes if o.ending == "hung"]),
        _none("junk that is not refused with 4xx", heard),
        _none("5xx other than 503", [o for o, r in answered if r.status >= 500 and r.status != 503]),
        _none(
            "good recordings with an error but for a killed decoder or 503",
            [o for o, r in good if r.code != "ok" and o not in killed and o not in refused],
        ),
        # Broken files may break a decoder by themselves: only good ones tell.
        _at_most(
            "good recordings lost with a killed decode worker",
            sum(o in killed for o, _ in good),
            len(run.watch.worker_kills_s),
        ),
        _at_most("answers 503", len(refused), len(run.watch.worker_kills_s)),
    ]


def _of_texts(run: Run) -> list[Check]:
    texts = [
        (o, run.expected[o.kind, o.about], o.reply.text)
        for o in run.outcomes
        if o.reply is not None and o.reply.code == "ok" and (o.kind, o.about) in run.expected
    ]
    wrong = [
        o
        for o, first, text in texts
        if text != first and word_error_rate([first], [text]) > _CHANGED_WORDS_OF_ONE[o.kind]
    ]
    changed = word_error_rate([first for _, first, _ in texts], [text for *_, text in texts])
    return [
        _none("texts that differ from the first answer by half of a clip, or a tenth of a long recording", wrong),
        _at_most("changed words of all texts", 100 * changed, 100 * _CHANGED_WORDS, " %"),
    ]


def _growths(run: Run) -> list[tuple[Role, str, float, float]]:
    """Role, what is compared, and memory early and late, in MB."""
    samples = run.watch.samples
    found: list[tuple[Role, str, float, float]] = [
        ("API", "median of a quarter", *quarters(largest(samples, "API"), run.warm_up_s)),
        (
            "decode worker",
            "largest of all, median of a quarter",
            *quarters(largest(samples, "decode worker"), run.warm_up_s),
        ),
    ]
    engines = [life for life in lives(samples, "engine") if life[-1].at_s > run.warm_up_s]
    peaks = [max(sample.rss_mb for sample in life) for life in engines if len(life) >= _SHORTEST_LIFE]
    half = len(peaks) // 2
    if half:
        found.append(("engine", "peak of a life, median of half the lives", median(peaks[:half]), median(peaks[half:])))
    else:
        found.append(("engine", "median of a quarter", *quarters(largest(samples, "engine"), run.warm_up_s)))
    return found


def _of_memory(run: Run) -> list[Check]:
    return [
        _at_most(f"growth of {role}, {how}", 100 * (late / early - 1), 100 * _FLAT, " %")
        for role, how, early, late in _growths(run)
    ]


def _of_footprint(run: Run) -> list[Check]:
    names = {
        "open_files": "open files of the API process",
        "children": "child processes",
        "zombies": "zombies",
        "files": "temporary files",
    }
    was, became = asdict(run.before), asdict(run.after)
    livez_s, errors = run.watch.livez_s, run.watch.livez_errors
    return [
        *(
            Check(f"{what} at the end", str(became[name]), f"{was[name]}, as before", became[name] == was[name])
            for name, what in names.items()
        ),
        Check("GET /livez without an answer", " ".join([str(len(errors)), *errors[:3]]), "0", not errors),
        _at_most("p99 of GET /livez", 1000 * percentile(livez_s, 0.99), 1000 * _LIVEZ_P99_S, " ms"),
    ]


def _of_counters(run: Run) -> list[Check]:
    own = Counter((o.reply.route, str(o.reply.status), o.reply.code) for o in run.outcomes if o.reply is not None)
    left = sum(o.ending == "left" for o in run.outcomes)
    missing = {key: (count, run.counted.get(key, 0.0)) for key, count in own.items() if run.counted.get(key, 0) < count}
    # Who leaves may have been answered at that moment, and no longer know it.
    surplus = sum(run.counted.values()) - sum(own.values())
    kills, worker_kills = len(run.watch.engine_kills_s), len(run.watch.worker_kills_s)
    killed, restarts = run.worker_ends.get("killed", 0.0), run.engine_restarts
    return [
        Check("answers that clients have and the service has not counted", f"{missing or 0}", "0", not missing),
        Check(
            "requests that only the service counted", f"{surplus:.0f}", f"{left} of clients that left", surplus == left
        ),
        Check("restarts of the engine counted", f"{restarts:.0f}", f"{kills} kills", restarts == kills),
        # One that is killed while it starts, or just when nobody needs its work any more, is not counted as killed.
        Check(
            "decode workers counted as killed",
            f"{killed:.0f}",
            f"{worker_kills} kills, or 5 % fewer",
            0.95 * worker_kills - 1 <= killed <= worker_kills,
        ),
    ]


def request_table(run: Run) -> list[dict[str, Any]]:
    """A row for each kind of clients, and one of all."""
    kinds = list(dict.fromkeys(o.kind for o in run.outcomes))
    return [_requests(kind, [o for o in run.outcomes if o.kind == kind]) for kind in kinds] + [
        _requests("all", run.outcomes)
    ]


def _requests(kind: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    answered = [(o, o.reply) for o in outcomes if o.reply is not None]
    times = [o.took_s for o, r in answered if r.code == "ok"]
    return {
        "clients": kind,
        "sent": len(outcomes),
        "ok": len(times),
        "decoder killed": sum(_BROKE_THE_DECODER in r.detail for _, r in answered),
        "other 4xx": sum(r.status // 100 == 4 and _BROKE_THE_DECODER not in r.detail for _, r in answered),
        "503": sum(r.status == 503 for _, r in answered),
        "left": sum(o.ending == "left" for o in outcomes),
        "hung or lost": sum(o.ending in ("hung", "lost") for o in outcomes),
        "p50 s": percentile(times, 0.5) if times else None,
        "p99 s": percentile(times, 0.99) if times else None,
        "slowest s": max(times, default=None),
    }


def code_table(run: Run) -> list[dict[str, Any]]:
    """What the service has answered, by its own count."""
    return [
        {"route": key[0], "status": key[1], "code": key[2], "requests": int(count)}
        for key, count in sorted(run.counted.items())
    ]


def memory_table(run: Run) -> list[dict[str, Any]]:
    """How memory grew from early to late, and how many processes there were."""
    return [
        {
            "process": role,
            "lives": len(lives(run.watch.samples, role)),
            "compared": how,
            "early MB": early,
            "late MB": late,
            "growth %": 100 * (late / early - 1),
            "highest MB": max(s.rss_mb for s in run.watch.samples if s.role == role),
        }
        for role, how, early, late in _growths(run)
    ]
