"""The queries of deploy/prometheus and deploy/grafana, for tests to look into."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"

SELECTOR = r"\b(?:asr[_:]|probe_|up\b)[a-z0-9_:]*(?:\{[^}]*\})?"
"""What an expression takes from Prometheus: the name of a series, with the labels that it must have."""


def rules() -> list[dict[str, Any]]:
    """All rules, those that record and those that alert."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(PROMETHEUS.glob("rules/*.yml"))]
    return [rule for text in texts for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def panels(dashboard: str) -> list[dict[str, Any]]:
    """The panels of a dashboard's JSON, without the titles of rows."""
    return [panel for panel in json.loads(dashboard)["panels"] if panel["type"] != "row"]


def asked(dashboard: str) -> Iterator[str]:
    """The expressions of a dashboard."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield target["expr"]
