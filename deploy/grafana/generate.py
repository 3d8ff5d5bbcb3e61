"""Writes the dashboards: `python -m deploy.grafana.generate`.

`service` and `engine` say what they show, `panels` how that looks; docs/metrics.md describes the metrics.
"""

import json
from pathlib import Path

from deploy.grafana.engine import ENGINE
from deploy.grafana.panels import dashboard
from deploy.grafana.service import SERVICE

FOLDER = Path(__file__).parent / "dashboards"


def rendered() -> dict[Path, str]:
    """Each file with what belongs into it."""
    dashboards = {
        "service": dashboard("asr-service", "ASR service: rate, errors, duration, saturation", SERVICE),
        "engine": dashboard("asr-engine", "ASR engine: batches, slots, padding, memory", ENGINE),
    }
    return {
        FOLDER / f"{name}.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in dashboards.items()
    }


if __name__ == "__main__":
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")
