"""The images' recipe and the compose file: what they promise, and that they agree with the rest of the project."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from asr_service.settings import variables

ROOT = Path(__file__).parents[3]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE_TEXT = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENV_EXAMPLE = (DOCKER / ".env.example").read_text(encoding="utf-8")
FULL_TAG = r"[a-z0-9./-]+:v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?(@sha256:[0-9a-f]{64})?"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert set(service.get("cap_add", [])) <= {"CHOWN", "DAC_OVERRIDE", "NET_BIND_SERVICE", "SETGID", "SETUID"}
    assert name == "nginx" or "cap_add" not in service
    assert service.keys().isdisjoint({"privileged", "pid", "ipc", "devices"})


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "keys"])
def test_what_goes_on_running_is_bounded_and_comes_back(name: str) -> None:
    service = SERVICES[name]

    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    # The service's own check is part of its image.
    assert "healthcheck" in service or service["image"].startswith("asr-service:")


def test_only_the_proxy_is_reachable_from_other_machines() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    outside = {name for name, ports in published.items() if not all("127.0.0.1:" in port for port in ports)}

    assert outside == {"nginx"}
    assert {name for name, network in COMPOSE["networks"].items() if (network or {}).get("internal")} == {
        "store",
        "metrics",
    }
    assert SERVICES["redis"]["networks"] == ["store"]


@pytest.mark.parametrize("name", ["asr-cpu", "asr-gpu"])
def test_callers_need_a_key(name: str) -> None:
    environment = SERVICES[name]["environment"]

    assert environment["ASR_HOST"] == "0.0.0.0"
    assert environment["ASR_AUTH__MODE"] == "required"
    assert environment["ASR_AUTH__KEYS_FILE"] == SERVICES["keys"]["environment"]["ASR_AUTH__KEYS_FILE"]
    assert environment["ASR_TRUSTED_PROXIES"] == SERVICES["nginx"]["networks"]["front"]["ipv4_address"]


def test_the_service_has_time_to_end() -> None:
    for name in ("asr-cpu", "asr-gpu"):
        (default_s,) = re.findall(r":-(\d+)\}", SERVICES[name]["environment"]["ASR_SHUTDOWN_GRACE_S"])
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > int(default_s) + 10


def test_every_variable_of_the_service_is_a_setting() -> None:
    ours = set(re.findall(r"\bASR_[A-Z_]+\b", COMPOSE_TEXT + DOCKERFILE + ENV_EXAMPLE))

    assert ours - set(variables()) == {"ASR_MEMORY"}


def test_every_choice_of_compose_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE_TEXT))
    offered = set(re.findall(r"^#?([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE))

    assert offered == used - {"ASR_SHUTDOWN_GRACE_S"}


def test_images_of_others_have_full_tags() -> None:
    images = [service["image"] for service in SERVICES.values() if not service["image"].startswith("asr-service:")]
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)

    assert len(images) >= 2
    assert [image for image in (*images, base) if not re.fullmatch(FULL_TAG, image)] == []
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) <= {"${PYTHON_IMAGE}", "build", "runtime"}


def test_what_is_mounted_from_the_project_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", []) if mount.startswith("../")]

    assert mounts
    assert [mount for mount in mounts if not (DOCKER / mount.split(":")[0]).exists()] == []


def test_named_volumes_and_networks_are_declared() -> None:
    mounted = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    joined = {network for service in SERVICES.values() for network in service.get("networks", [])}

    assert {name for name in mounted if re.fullmatch(r"[a-z]+", name)} == COMPOSE["volumes"].keys()
    assert joined == COMPOSE["networks"].keys()


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_image_is_nobody_in_particular(target: str) -> None:
    stage = DOCKERFILE.split(f"FROM runtime AS {target}\n")[1].split("\nFROM ")[0]

    assert "\nUSER 10001:10001" in stage
    assert "useradd --uid 10001 " in DOCKERFILE


def test_the_builder_gets_what_is_copied_and_no_secrets() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        name
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for name in sources.split()
    }

    assert lines[1] == "*"
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_sets_no_setting() -> None:
    """Whoever lets it listen for others must say so, and how callers are checked."""
    assert re.findall(r"^(?:ENV|ARG|    )\s*ASR_[A-Z_]+=", DOCKERFILE, re.MULTILINE) == []
