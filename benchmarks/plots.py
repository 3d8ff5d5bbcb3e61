"""Throughput and latency against clients, from the last record of throughput.py, as one PNG.

    python -m benchmarks.plots

Owns how results look. Measures nothing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.cli import start
from benchmarks.report import RESULTS

Row = Mapping[str, Any]


def main(
    results: Annotated[Path, typer.Option(help="Folder with throughput.jsonl; takes throughput.png.")] = RESULTS,
) -> None:
    """Draw throughput.png beside throughput.jsonl."""
    *_, last = (results / "throughput.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(last)
    rows: list[Row] = record["tables"]["Short clips under load"]
    path = results / "throughput.png"
    draw(rows, f"{record['machine']['cpu']}, {record['machine']['cores']} cores, commit {record['commit']}", path)
    print(path)


def draw(rows: Sequence[Row], machine: str, path: Path) -> None:
    """Requests per second with their range, and latencies (median solid, 95th percentile dashed), by system."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    for index, system in enumerate(dict.fromkeys(row["system"] for row in rows)):
        own = sorted((row for row in rows if row["system"] == system), key=lambda row: int(row["clients"]))
        clients = [row["clients"] for row in own]
        rates = [row["requests/s"] for row in own]
        colour = f"C{index}"
        below = [rate["median"] - rate["low"] for rate in rates]
        above = [rate["high"] - rate["median"] for rate in rates]
        medians = [rate["median"] for rate in rates]
        throughput.errorbar(clients, medians, yerr=[below, above], marker="o", capsize=3, color=colour, label=system)
        latency.plot(clients, [row["p50 s"] for row in own], marker="o", color=colour, label=f"{system}, median")
        latency.plot(
            clients, [row["p95 s"] for row in own], "--", marker="o", color=colour, label=f"{system}, 95th percentile"
        )
    for axes, title, unit in (
        (throughput, "Throughput of short clips", "requests / s"),
        (latency, "Latency of short clips", "s (logarithmic)"),
    ):
        ticks = sorted({int(row["clients"]) for row in rows})
        axes.set(title=title, xlabel="clients", ylabel=unit, xscale="log")
        axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    throughput.set_ylim(bottom=0)
    throughput.legend()
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    latency.yaxis.set_minor_locator(NullLocator())
    latency.yaxis.set_major_formatter("{x:g}")
    latency.legend(fontsize="x-small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(machine, fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    start(main)
