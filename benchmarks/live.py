"""Live speakers at once: how soon after the end of speech is the text final, how far behind is growing text?

    python -m benchmarks.live --sessions 4,8,12,16,20 --seconds 90

Every speaker sends telephone prompts, with pauses between them, at their own pace over /v1/realtime. All of the
service runs on this machine, and the speakers too. At the end the same recordings are transcribed as files, to compare
the word error rates.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from matplotlib.figure import Figure

from benchmarks.cli import start
from benchmarks.clips import Clip, long_recording
from benchmarks.live_client import Heard, pcm_of, speak
from benchmarks.report import RESULTS, Table, publish
from benchmarks.service import Service
from benchmarks.stats import percentile, word_error_rate

_FINAL_GOAL_S, _AGE_GOAL_S = 1.0, 1.5
_PAUSE_S = 1.2
_WARM_UP_S = 10.0


def main(
    sessions: Annotated[str, typer.Option(help="Numbers of speakers, separated by commas.")] = "1,4,8,12,16,20",
    seconds: Annotated[float, typer.Option(help="How long each speaks.")] = 90,
    results: Annotated[Path, typer.Option(help="Folder that takes live.jsonl and live.png.")] = RESULTS,
) -> None:
    """Measure live sessions, and draw the curve."""
    counts = [int(count) for count in sessions.split(",")]
    rows, accuracy = asyncio.run(_measure(counts, seconds))
    tables = [Table("Live speakers", rows), Table("Word error rates of the same recordings", accuracy)]
    publish("live", tables, {"sessions": counts, "seconds": seconds, "pause_s": _PAUSE_S}, results)
    _draw(rows, results / "live.png")


async def _measure(counts: Sequence[int], seconds: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as folder:
        recordings = [
            long_recording(Path(folder) / f"speaker-{number}.wav", seconds, pause_s=_PAUSE_S, salt=number)
            for number in range(max(counts))
        ]
        service = Service(env={"ASR_REALTIME__MAX_SESSIONS": "1000"})
        rows = []
        texts: dict[str, list[tuple[str, str]]] = {}
        try:
            await service.start()
            url = str(service.client.base_url).replace("http", "ws", 1).rstrip("/") + "/v1/realtime"
            await speak(url, pcm_of(recordings[0], _WARM_UP_S))
            for count in counts:
                rows.append(await _round(service, url, recordings[:count], texts))
                print(rows[-1], flush=True)
            offline = [await service.transcribe(clip) for clip in recordings]
        finally:
            await service.aclose()
    references = [clip.text for clip in recordings]
    accuracy = [{"how": "as files", "recordings": len(offline), "WER %": 100 * word_error_rate(references, offline)}]
    for name, pairs in texts.items():
        whole = [text for text, _ in pairs]
        accuracy.append(
            {
                "how": f"live, {name} at once",
                "recordings": len(pairs),
                "WER %": 100 * word_error_rate([reference for _, reference in pairs], whole),
            }
        )
        accuracy.append(
            {
                "how": f"the same {name} as files",
                "recordings": len(pairs),
                "WER %": 100 * word_error_rate(references[: len(pairs)], offline[: len(pairs)]),
            }
        )
    return rows, accuracy


async def _round(
    service: Service, url: str, recordings: Sequence[Clip], texts: dict[str, list[tuple[str, str]]]
) -> dict[str, Any]:
    processes = service.processes()
    before_s = _cpu_s(processes)
    # Spread over the time between two utterances, so that their ends do not coincide.
    delays = [5.0 * number / len(recordings) for number in range(len(recordings))]
    pcms = [pcm_of(clip) for clip in recordings]
    heard = await asyncio.gather(*(speak(url, pcm, delay) for pcm, delay in zip(pcms, delays, strict=True)))
    used_s = _cpu_s(service.processes()) - before_s
    texts[str(len(recordings))] = [(one.text, clip.text) for one, clip in zip(heard, recordings, strict=True)]
    return _row(heard, used_s / sum(clip.duration_s for clip in recordings))


def _row(heard: Sequence[Heard], cpu_share: float) -> dict[str, Any]:
    finals = [final.after_speech_s for one in heard for final in one.finals]
    ages = [age for one in heard for age in one.ages_s()]
    behind = [came - reach for one in heard for came, reach in one.partials]
    final_s, age_s = percentile(finals, 0.95), percentile(ages, 0.95)
    return {
        "speakers": len(heard),
        "utterances": len(finals),
        "final after speech, p50 s": percentile(finals, 0.5),
        "p95 s": final_s,
        "p99 s": percentile(finals, 0.99),
        "age of what is shown, p50 s": percentile(ages, 0.5),
        "age, p95 s": age_s,
        "partials behind when they come, p95 s": percentile(behind, 0.95),
        "partials a second and speaker": len(behind) / sum(one.finals[-1].end_s for one in heard if one.finals),
        "CPU s per s of audio": cpu_share,
        "errors": sum(len(one.errors) for one in heard),
        "late sends, p99 s": percentile([late for one in heard for late in one.late_s], 0.99),
        "within the goals": "yes" if final_s <= _FINAL_GOAL_S and age_s <= _AGE_GOAL_S else "no",
    }


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes if process.is_running()]
    return float(sum(time.user + time.system for time in times))


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    finals, ages = figure.subplots(1, 2)
    counts = [row["speakers"] for row in rows]
    for label, style in (("final after speech, p50 s", "o-"), ("p95 s", "o--"), ("p99 s", "o:")):
        finals.plot(counts, [row[label] for row in rows], style, color="C0", label=label.rpartition(", ")[2][:3])
    for label, style in (("age of what is shown, p50 s", "o-"), ("age, p95 s", "o--")):
        ages.plot(counts, [row[label] for row in rows], style, color="C1", label=label.rpartition(", ")[2][:3])
    for axes, title, goal_s in (
        (finals, "Final text after the end of speech", _FINAL_GOAL_S),
        (ages, "Age of growing text while somebody speaks", _AGE_GOAL_S),
    ):
        axes.axhline(goal_s, color="grey", linewidth=1, linestyle="--")
        axes.text(counts[0], goal_s, " goal for p95", va="bottom", fontsize="small", color="grey")
        axes.set(title=title, xlabel="speakers at once", ylabel="s", ylim=(0, None))
        axes.set_xticks(counts)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    start(main)
