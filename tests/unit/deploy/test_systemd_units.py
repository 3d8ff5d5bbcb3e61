"""The units in deploy/systemd are right, and confine the service as far as it can be."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from asr_service.settings import Settings, variables

SYSTEMD = Path(__file__).parents[3] / "deploy" / "systemd"
UNITS = ("asr-service.service", "asr-service-probe.service", "asr-service-probe.timer")
DROP_INS = sorted(path.name for path in (SYSTEMD / "asr-service.service.d").iterdir())
COMMAND = "/opt/asr-service/bin/asr-service"


def values(unit: str, key: str) -> list[str]:
    """All values of a key in a unit file, in order."""
    return re.findall(rf"^{key}=(.*)$", (SYSTEMD / unit).read_text(encoding="utf-8"), re.MULTILINE)


def analyze(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    command = ["systemd-analyze", "--man=no", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def systemd_version(folder: Path) -> int:
    words = analyze("--version", folder=folder).stdout.split()
    return int(words[1])


def installed(folder: Path, *drop_ins: str) -> Path:
    """The units with some drop-ins, as they would lie on a host where the service is installed."""
    for name in UNITS:
        text = (SYSTEMD / name).read_text(encoding="utf-8")
        assert COMMAND in text or name.endswith(".timer")
        (folder / name).write_text(text.replace(COMMAND, "/bin/true"))
    (folder / "asr-service.service.d").mkdir()
    for name in drop_ins:
        shutil.copy(SYSTEMD / "asr-service.service.d" / name, folder / "asr-service.service.d")
    return folder


@pytest.mark.parametrize("drop_in", [None, *DROP_INS])
def test_systemd_understands_every_line(drop_in: str | None, tmp_path: Path) -> None:
    folder = installed(tmp_path, *([drop_in] if drop_in else []))
    if drop_in == "backoff.conf" and systemd_version(folder) < 254:
        pytest.skip("is for systemd 254 and newer")

    done = analyze("verify", *(f"./{name}" for name in UNITS), folder=folder)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("drop_ins", [(), ("gpu.conf", "credentials.conf")], ids=["alone", "with a GPU"])
def test_the_exposure_is_low(drop_ins: tuple[str, ...], tmp_path: Path) -> None:
    folder = installed(tmp_path, *drop_ins)
    for unit in UNITS[:2]:
        done = analyze("security", "--offline=true", "--threshold=20", f"./{unit}", folder=folder)
        assert done.returncode == 0, done.stdout


def test_the_filter_lets_decode_workers_confine_themselves() -> None:
    """`seccomp` and the limits of resources have to be possible, and new code in memory, which oneDNN writes."""
    unit = "asr-service.service"

    assert "seccomp" in values(unit, "SystemCallFilter")[0].split()
    assert not any("@resources" in value for value in values(unit, "SystemCallFilter")[1:])
    assert values(unit, "MemoryDenyWriteExecute") == []


def test_the_service_has_time_to_finish_and_ends_its_children_itself() -> None:
    unit = "asr-service.service"
    settings = Settings.load({name: value or "" for name, value in dotenv_values(SYSTEMD / "asr-service.env").items()})

    (stop_s,) = values(unit, "TimeoutStopSec")
    assert float(stop_s) > settings.shutdown_grace_s
    assert values(unit, "KillMode") == ["mixed"]
    # An engine that the kernel kills for its memory is the service's own business.
    assert values(unit, "OOMPolicy") == ["continue"]
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "RestartPreventExitStatus") == ["2"]


def test_all_settings_that_are_named_exist() -> None:
    for path in sorted(SYSTEMD.rglob("*")):
        if path.is_file():
            named = set(re.findall(r"\b(ASR_\w+)=", path.read_text(encoding="utf-8")))
            assert named <= set(variables()), path


def test_every_setting_of_the_example_may_be_taken_as_it_stands() -> None:
    """Those that are commented out, too."""
    text = (SYSTEMD / "asr-service.env").read_text(encoding="utf-8")
    Settings.load(dict(re.findall(r"^#?(ASR_\w+)=(.*)$", text, re.MULTILINE)))
