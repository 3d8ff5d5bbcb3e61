"""A real Prometheus scrapes the real service, and is asked every query of the dashboards and rules."""

import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.sync.client import connect

from deploy.grafana.generate import rendered
from tests.e2e.service import ROOT, Service, serve
from tests.recordings import load_pcm, packaged_clips
from tests.unit.deploy.queries import SELECTOR, asked, rules

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DEPLOY = ROOT / "deploy" / "prometheus"
CLIP = next(path for path in packaged_clips() if path.parent.name == "en")
SENTENCE = next(path for path in packaged_clips() if path.stem == "quick_brown_fox")
DAY_S = 86_400
CHOSEN = {"$job": "asr", "$instance": ".*", "$__rate_interval": "5m", "$__range": "1h"}
"""What Grafana would put in the place of variables."""


def promtool(*arguments: str | Path) -> str:
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("asr_key")
    config = configuration(tmp_path, key, "127.0.0.1:8000", "127.0.0.1:9115")

    assert "SUCCESS" in promtool("check", "config", config)


def test_promtool_accepts_the_rules() -> None:
    said = promtool("check", "rules", *sorted(DEPLOY.glob("rules/*.yml")))

    assert len(re.findall(r"SUCCESS: \d+ rules found", said)) == 2


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", DEPLOY / "tests" / "alerts_test.yml")


def configuration(folder: Path, key: Path, service: str, blackbox: str) -> Path:
    """The configuration that is delivered, with the addresses of this machine, and in a hurry."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / pattern) for pattern in config["rule_files"]]
    targets = folder / "targets"
    targets.mkdir()
    (targets / "https.yml").write_text((DEPLOY / "targets" / "https.yml.example").read_text(encoding="utf-8"))
    for job in config["scrape_configs"]:
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(key)
        if job.pop("dns_sd_configs", None):
            job["static_configs"] = [{"targets": [service]}]
        for discovery in job.get("file_sd_configs", []):
            discovery["files"] = [str(folder / pattern) for pattern in discovery["files"]]
        for relabelling in job.get("relabel_configs", []):
            if relabelling.get("replacement") == "blackbox:9115":
                relabelling["replacement"] = blackbox
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


class Blackbox(BaseHTTPRequestHandler):
    """Says what blackbox_exporter says of an address that answers and has a good certificate."""

    def do_GET(self) -> None:
        expiry = time.time() + 60 * DAY_S
        good = self.path.startswith("/probe?") and "module=http_2xx" in self.path and "livez" in self.path
        body = f"probe_success {int(good)}\nprobe_ssl_earliest_cert_expiry {expiry}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextmanager
def blackbox() -> Iterator[str]:
    """The address of a stand-in."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blackbox) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Prometheus:
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression yields now. Fails when it is not one."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def get(self, what: str) -> dict[str, Any]:
        data: dict[str, Any] = httpx.get(f"{self.url}/api/v1/{what}").json()["data"]
        return data


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}"]
    with subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = process.stderr
        try:
            said = []
            for line in log:
                said.append(line)
                if "Server is ready" in line:
                    break
            else:
                raise AssertionError("".join(said))
            reader = threading.Thread(target=log.read)
            reader.start()
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()
            process.wait()
            reader.join()


def create_key(file: Path, name: str, scope: str) -> str:
    command = [sys.executable, "-m", "asr_service", "keys", "create", name, "--scope", scope]
    environment = {"PYTHONPATH": str(ROOT / "src"), "ASR_AUTH__KEYS_FILE": str(file)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def speak(service: Service, key: str) -> None:
    """A live session with one utterance, which has a draft first."""
    address = service.url.replace("http", "ws", 1) + "/v1/realtime"
    pcm = load_pcm(SENTENCE).tobytes()
    wished = {
        "audio": {"input": {"format": {"rate": 16_000}}},
        "include": ["item.input_audio_transcription.partial"],
    }
    with connect(address, additional_headers={"X-API-Key": key}, proxy=None) as live:
        live.send(json.dumps({"type": "session.update", "session": wished}))
        for audio, kind in ((pcm[:64_000], "partial"), (pcm[64_000:] + bytes(64_000), "completed")):
            live.send(audio)
            while not json.loads(live.recv())["type"].endswith(kind):
                continue


def some_work(service: Service, key: str) -> None:
    """Requests that end well and such that do not, and returns when all are accounted for."""
    with httpx.Client(base_url=service.url, headers={"X-API-Key": key}, timeout=60) as client:
        spoken = CLIP.read_bytes()
        statuses = [
            client.post("/transcribe?words=true", content=spoken).status_code,
            client.post("/v1/audio/transcriptions", files={"file": spoken}, data={"model": "whisper-1"}).status_code,
            client.post("/transcribe", content=b"no audio").status_code,
            client.get("/v1/models", headers={"X-API-Key": "wrong"}).status_code,
            client.get("/v1/models", headers={"X-Request-ID": "the-last"}).status_code,
        ]
        speak(service, key)
    assert statuses == [200, 200, 400, 401, 200]
    while service.wait_for("request").get("request_id") != "the-last":
        continue


def wait_for_scrapes(service: Service, count: int) -> None:
    for _ in range(count):
        while service.wait_for("request")["route"] != "/metrics":
            continue


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen a service at work."""
    folder = tmp_path_factory.mktemp("prometheus")
    keys, scraper = folder / "keys.json", folder / "scraper"
    scraper.write_text(create_key(keys, "prometheus", "metrics"))
    caller = create_key(keys, "caller", "transcribe")
    settings = {"ASR_AUTH__MODE": "required", "ASR_AUTH__KEYS_FILE": str(keys), "ASR_LOG_LEVEL": "debug"}
    with serve(**settings) as service, blackbox() as outside:
        service.wait_for("ready")
        some_work(service, caller)
        config = configuration(folder, scraper, service.url.removeprefix("http://"), outside)
        with prometheus(config, folder / "data") as running:
            wait_for_scrapes(service, 2)
            some_work(service, caller)
            # The second one has begun, so the first is stored; another two for rules that look at rules.
            wait_for_scrapes(service, 4)
            yield running


@pytest.mark.slow
def test_all_targets_are_scraped_with_the_key(watched: Prometheus) -> None:
    targets = watched.get("targets")["activeTargets"]

    up = {target["labels"]["job"]: target["health"] for target in targets}
    assert up.pop("prometheus") in {"up", "down", "unknown"}, "that one is not where it usually listens"
    assert up == {"asr": "up", "asr-https": "up"}


@pytest.mark.slow
def test_every_panel_shows_something(watched: Prometheus) -> None:
    expressions = {_chosen(expression) for text in rendered().values() for expression in asked(text)}

    assert len(expressions) > 50
    found = {expression: watched.query(expression) for expression in expressions}
    assert [expression for expression, result in found.items() if not result] == []
    nothing = [
        expression
        for expression, result in found.items()
        if all(math.isnan(float(series["value"][1])) for series in result)
    ]
    assert nothing == []


def _chosen(expression: str) -> str:
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.slow
def test_every_recording_rule_records(watched: Prometheus) -> None:
    recorded = [rule["record"] for rule in rules() if "record" in rule]

    assert len(recorded) > 8
    found = {name: watched.query(name) for name in recorded}
    assert [name for name, result in found.items() if len(result) != 1] == []
    assert all(not math.isnan(float(result[0]["value"][1])) for result in found.values())
    assert float(found["asr:requests:rate5m"][0]["value"][1]) > 0
    assert float(found["asr:request_errors:ratio_rate5m"][0]["value"][1]) == 0


@pytest.mark.slow
def test_alerts_look_at_what_there_is_and_are_silent(watched: Prometheus) -> None:
    """Without an event they have nothing to say; what they watch must be there, or they never would."""
    alerts = [rule for rule in rules() if "alert" in rule]

    assert len(alerts) > 10
    for rule in alerts:
        selectors = re.findall(SELECTOR, rule["expr"])
        assert selectors
        assert [selector for selector in selectors if not watched.query(selector)] == [], rule["alert"]
        # Slowness lies with this machine, and would have to last; nothing else may have anything to say.
        if rule["alert"] != "AsrSlowerThanSpeech":
            assert watched.query(rule["expr"]) == [], rule["alert"]
    assert watched.query('ALERTS{alertstate="firing"}') == []


@pytest.mark.slow
def test_no_rule_fails(watched: Prometheus) -> None:
    groups = watched.get("rules")["groups"]

    states = {rule["name"]: (rule["health"], rule.get("lastError")) for group in groups for rule in group["rules"]}
    assert len(states) == len(rules())
    assert [name for name, state in states.items() if state != ("ok", None)] == []
