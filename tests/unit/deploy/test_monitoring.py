"""Dashboards, rules and the configuration of Prometheus agree with the service, its documents and with each other."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_service import errors
from asr_service.observability.metrics import Metrics
from deploy.grafana.generate import rendered
from tests.fakes import WHISPER
from tests.unit.deploy.queries import PROMETHEUS, asked, panels, rules

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = {path.stem: text for path, text in rendered().items()}
NAME = r"\b(?:asr|probe)_[a-z_]+\b|\basr:[a-z0-9_:]+"
FROM_OTHERS = {"probe_success", "probe_ssl_earliest_cert_expiry"}
"""Metrics of the blackbox exporter."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def series() -> set[str]:
    """The names of all series that there can be."""
    metrics = Metrics()
    metrics.engine().model_loaded(WHISPER)
    suffixes = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "histogram": ("_bucket", "_sum", "_count")}
    exported = {family.name + suffix for family in metrics.registry.collect() for suffix in suffixes[family.type]}
    return exported | {rule["record"] for rule in rules() if "record" in rule} | FROM_OTHERS


def test_rules_and_dashboards_ask_for_what_there_is() -> None:
    expressions = [rule["expr"] for rule in rules()]
    expressions += [expression for text in DASHBOARDS.values() for expression in asked(text)]
    used = {name for expression in expressions for name in re.findall(NAME, expression)}

    assert len(used) > 30
    assert used - series() == set()


def test_every_metric_of_the_service_is_shown() -> None:
    """But for what never changes, and what the dashboards show by another name."""
    shown = {
        name for text in DASHBOARDS.values() for expression in asked(text) for name in re.findall(NAME, expression)
    }
    metrics = Metrics()
    families = {
        family.name for family in metrics.registry.collect() if not any(name.startswith(family.name) for name in shown)
    }

    assert families == {
        "asr_build",
        "asr_model_load_seconds",
        *(f"asr_process_{what}" for what in ("virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds")),
    }


def test_each_alert_has_its_place_in_the_runbook() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    sections = re.findall(
        r"^### (Asr\w+)$", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), re.MULTILINE
    )

    assert [rule["alert"] for rule in alerts] == sections
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_each_alert_is_tested() -> None:
    tests = (PROMETHEUS / "tests" / "alerts_test.yml").read_text(encoding="utf-8")

    assert [rule["alert"] for rule in rules() if rule.get("alert", "Asr") not in tests] == []


def test_what_counts_as_an_error_is_the_fault_of_the_service() -> None:
    (rule,) = (rule for rule in rules() if rule.get("record") == "asr:request_errors:rate5m")
    (pattern,) = re.findall(r'code=~"([^"]+)"', rule["expr"])
    classes = [
        found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, errors.AsrError)
    ]

    counted = {error.code for error in classes if re.fullmatch(pattern, error.code)}
    assert counted == {error.code for error in classes if error.status >= 500}
    assert re.fullmatch(pattern, "cancelled")
    assert not re.fullmatch(pattern, "ok|client_gone")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_what_its_script_writes(name: str) -> None:
    """Run `python -m deploy.grafana.generate`."""
    assert (GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8") == DASHBOARDS[name]


def test_there_are_no_other_dashboards() -> None:
    assert {path.stem for path in (GRAFANA / "dashboards").iterdir()} == DASHBOARDS.keys()
    uids = [json.loads(text)["uid"] for text in DASHBOARDS.values()]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_can_be_read(name: str) -> None:
    shown = panels(DASHBOARDS[name])

    assert len(shown) > 12
    for panel in shown:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends)
        for target in panel["targets"]:
            by = re.match(r"(?:sum|max) by \(([a-z, ]+)\)", target["expr"])
            names = set(by[1].split(", ")) if by else set()
            # Every line has a name of its own.
            assert names <= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARDS[name])["panels"]]

    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    (source,) = load(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = load(GRAFANA / "provisioning" / "dashboards" / "asr-service.yaml")["providers"]
    compose = load(ROOT / "docker" / "compose.yaml")["services"]

    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == load(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert mounts["../deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_compose_gives_prometheus_what_its_configuration_names() -> None:
    config = load(PROMETHEUS / "prometheus.yml")
    compose = load(ROOT / "docker" / "compose.yaml")["services"]

    (asr,) = (job for job in config["scrape_configs"] if job["job_name"] == "asr")
    (name,) = asr["dns_sd_configs"][0]["names"]
    assert name in compose["asr-cpu"]["networks"]["metrics"]["aliases"]
    secret = asr["authorization"]["credentials_file"]
    assert secret.removeprefix("/run/secrets/") in compose["prometheus"]["secrets"]
    assert "../deploy/prometheus:/etc/prometheus:ro" in compose["prometheus"]["volumes"]
    assert all(not pattern.startswith("/") for pattern in config["rule_files"])


def test_the_kinds_of_targets_do_not_mix() -> None:
    """Each example, under its name without `.example`, is read by one job, or as an address for alerts."""
    config = load(PROMETHEUS / "prometheus.yml")
    patterns = [
        pattern
        for part in (*config["scrape_configs"], *config["alerting"]["alertmanagers"])
        for discovery in part.get("file_sd_configs", [])
        for pattern in discovery["files"]
    ]

    examples = sorted(PROMETHEUS.glob("targets/*.example"))
    assert len(examples) == len(patterns) == 3
    for path in examples:
        (entry,) = load(path)
        assert entry["targets"]
        assert sum(Path("targets", path.stem).match(pattern) for pattern in patterns) == 1
