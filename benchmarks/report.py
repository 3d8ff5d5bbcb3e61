"""What every benchmark prints and keeps: Markdown tables for people, one JSON line for later.

Owns the form of results and the description of the machine. Knows nothing of what was measured.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.stats import Spread, short

RESULTS = Path(__file__).parent / "results"
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same columns; a column's name says its unit."""

    title: str
    rows: Sequence[Mapping[str, Any]]

    def markdown(self) -> str:
        columns = list(self.rows[0])
        lines = [f"**{self.title}**", "", _line(columns), _line(["---"] * len(columns))]
        lines += [_line([_cell(row[column]) for column in columns]) for row in self.rows]
        return "\n".join(lines)


def publish(benchmark: str, tables: Sequence[Table], settings: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """Print `tables` and append them with machine, commit, command and date to FOLDER/BENCHMARK.jsonl."""
    record = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "machine": machine(),
        "settings": dict(settings),
        "tables": {table.title: [_plain(row) for row in table.rows] for table in tables},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{benchmark}.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"\n`{record['command']}`  \ncommit {record['commit']}, {_describe(machine())}\n")
    for table in tables:
        print(table.markdown() + "\n")


def machine() -> dict[str, Any]:
    """Processor, memory and versions that figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "engine_threads": int(os.environ.get("ASR_THREADS", "0")) or len(os.sched_getaffinity(0)),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": sys.version.split()[0],
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith("ASR_")},
        "load_average": os.getloadavg()[0],
    }


def command() -> str:
    """The command line that started this benchmark."""
    script = Path(sys.argv[0]).resolve()
    arguments = shlex.join(sys.argv[1:])
    if script.is_relative_to(_ROOT):
        module = ".".join(script.relative_to(_ROOT).with_suffix("").parts)
        return f"python -m {module} {arguments}".strip()
    return f"{script.name} {arguments}".strip()


def commit() -> str:
    """The commit that is checked out, with a plus sign where the code differs from it."""
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if head.returncode != 0:
        return "none"
    changes = subprocess.run(
        ["git", "status", "--porcelain", "--", "src", "benchmarks", ":!benchmarks/results", ":!benchmarks/RESULTS.md"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout.strip() + ("+" if changes.stdout else "")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _describe(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, "
        f"{facts['engine_threads']} engine threads, torch {facts['torch']}"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return short(value)
    return "–" if value is None else str(value)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(value) if isinstance(value, Spread) else value for name, value in row.items()}
