"""What deploy/kubernetes says of the service is true, and what a cluster would get is valid."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
from dotenv import dotenv_values

from asr_service.api.app import create_app
from asr_service.observability.metrics import Metrics
from asr_service.settings import Settings, variables
from tests.fakes import FakeDecoder, FakeEngine, FakeListener
from tests.unit.deploy.kustomize import KUBERNETES, OVERLAYS, Manifest, only, read, rendered

VERSIONS = ("1.31.0", "1.34.0", "1.37.0")
FOREIGN = {"ServiceMonitor"}
"""Kinds of the Prometheus Operator, whose schemas come with no package."""
OTHERS = {"kustomization.yaml", "servicemonitor.yaml", "prometheus-adapter-rules.yaml", "resources.yaml", "gpu.yaml"}
"""Files that are not manifests by themselves, or of a foreign kind."""
WHOLE = [path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name not in OTHERS]


def settings_of(overlay: str) -> dict[str, str]:
    files = (KUBERNETES / "base" / "settings.env", KUBERNETES / "overlays" / overlay / "settings.env")
    values: dict[str, str] = {}
    for file in files:
        values |= {name: value or "" for name, value in dotenv_values(file).items()}
    return values


def container(manifest: Manifest) -> Manifest:
    (found,) = manifest["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_each_file_is_a_valid_manifest(path: Path, version: str) -> None:
    (manifest,) = read(path)
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_makes_is_valid(overlay: str, version: str) -> None:
    manifests = rendered(overlay)
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["metadata"]["namespace"] == "asr"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_can_be_used(overlay: str) -> None:
    settings = Settings.load(settings_of(overlay))

    assert settings.auth.mode == "required"
    assert only(rendered(overlay), "ConfigMap")["data"] == settings_of(overlay)


def test_every_variable_of_the_service_is_a_setting() -> None:
    text = (KUBERNETES / "base" / "deployment.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"name: (ASR_\w+)", text))

    assert named
    assert named <= set(variables())


def test_kubernetes_adds_no_variables_of_its_own() -> None:
    """For a Service named asr-service it would set ASR_SERVICE_PORT, which is no setting and ends the start."""
    pod = only(read(KUBERNETES / "base" / "deployment.yaml"), "Deployment")["spec"]["template"]["spec"]
    service = only(read(KUBERNETES / "base" / "service.yaml"), "Service")

    assert service["metadata"]["name"].upper().startswith("ASR")
    assert pod["enableServiceLinks"] is False


def test_probes_ask_for_paths_that_there_are() -> None:
    found = container(only(read(KUBERNETES / "base" / "deployment.yaml"), "Deployment"))
    monitor = only(read(KUBERNETES / "components" / "monitoring" / "servicemonitor.yaml"), "ServiceMonitor")
    paths = {found[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    paths |= {endpoint["path"] for endpoint in monitor["spec"]["endpoints"]}
    app = create_app(Settings(), FakeEngine(), FakeDecoder(), Metrics(), listener=FakeListener())

    assert paths == {"/livez", "/readyz", "/metrics"}
    assert paths <= set(app.openapi()["paths"])
    # A model that loads for an hour must not cost the pod its life.
    assert {found[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")} == {"/livez"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_and_ports_fit(overlay: str) -> None:
    manifests = rendered(overlay)
    deployment = only(manifests, "Deployment")
    found, labels = container(deployment), deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    monitor = only(manifests, "ServiceMonitor")["spec"]
    service = only(manifests, "Service")

    assert str(ports["http"]) == settings_of(overlay)["ASR_PORT"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    for selector in (
        service["spec"]["selector"],
        only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        deployment["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert found["envFrom"][0]["configMapRef"]["name"] == only(manifests, "ConfigMap")["metadata"]["name"]
    assert only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "asr-service"
    assert "replicas" not in deployment["spec"]
    mounts = {mount["mountPath"] for mount in found["volumeMounts"]}
    assert str(Path(settings_of(overlay)["ASR_AUTH__KEYS_FILE"]).parent) in mounts
    assert str(Path(settings_of(overlay)["ASR_CACHE_DIR"]).parent) in mounts


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_time_to_finish(overlay: str) -> None:
    manifest = only(rendered(overlay), "Deployment")
    pause_s = container(manifest)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_s = Settings.load(settings_of(overlay)).shutdown_grace_s

    assert pause_s + grace_s < manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_confined(overlay: str) -> None:
    """What the Pod Security Standard `restricted` asks for, and a root file system that nobody writes to."""
    deployment = only(rendered(overlay), "Deployment")
    pod, found = deployment["spec"]["template"]["spec"], container(deployment)

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "privileged": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(volume.keys() <= {"name", "emptyDir", "secret", "persistentVolumeClaim"} for volume in pod["volumes"])
    assert "memory" in found["resources"]["limits"]
    # As many threads as the pod asks for cores, not as the node has.
    assert settings_of(overlay)["ASR_THREADS"] <= found["resources"]["requests"]["cpu"]


def test_pods_are_added_by_a_metric_that_there_is() -> None:
    folder = KUBERNETES / "components" / "monitoring"
    (metric,) = only(read(folder / "horizontalpodautoscaler.yaml"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rules,) = read(folder / "prometheus-adapter-rules.yaml")
    (rule,) = rules["rules"]["custom"]

    name = metric["pods"]["metric"]["name"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert f"# TYPE {name} gauge" in Metrics().render().decode()
