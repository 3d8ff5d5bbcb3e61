"""The command line: what ends it before any process is started."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("ASR_")}
    return subprocess.run(
        [sys.executable, "-m", "asr_service", *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    done = run("--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, "asr-service 0.1.0\n", "")


@pytest.mark.parametrize("command", [("serve",), ("transcribe", "a.wav"), ("evaluate", "a.tsv")])
def test_wrong_settings_are_one_sentence_each_and_exit_code_2(command: tuple[str, ...]) -> None:
    done = run(*command, ASR_PORT="abc", ASR_MODL="x")

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "ASR_MODL is not a setting of this service; did you mean ASR_MODEL?",
        "ASR_PORT='abc' cannot be used: input should be a valid integer, unable to parse string as an integer",
    ]


def test_refuses_to_listen_where_others_could_reach_it() -> None:
    done = run("serve", "--host", "0.0.0.0")

    assert done.returncode == 2
    assert "'0.0.0.0' is not a loopback address" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_one_sentence_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("serve", "--port", str(port))

    assert done.returncode == 1
    assert done.stderr == (
        f"Port {port} on 127.0.0.1 is in use: stop the other program, or choose another port with --port.\n"
    )


@pytest.mark.parametrize(
    ("variable", "content", "sentence"),
    [
        ("ASR_AUTH__KEYS_FILE", None, "No such file or directory. `asr-service keys create` makes the file"),
        ("ASR_AUTH__JWT__PUBLIC_KEY_FILE", "-----BEGIN NONSENSE-----", "it is not PEM of a public key."),
    ],
)
def test_without_something_to_check_callers_by_nothing_starts(
    tmp_path: Path, variable: str, content: str | None, sentence: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)

    done = run("serve", "--port", "0", ASR_AUTH__MODE="required", **{variable: str(path)})

    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(str(path))
    assert sentence in last
    assert "Traceback" not in done.stderr


def test_keys_are_made_where_the_settings_say(tmp_path: Path) -> None:
    made = run("keys", "create", "web", ASR_AUTH__KEYS_FILE=str(tmp_path / "keys.json"))

    assert made.returncode == 0
    assert made.stdout.startswith("asr_")
    assert made.stdout.strip() not in (tmp_path / "keys.json").read_text()


@pytest.mark.parametrize(
    ("compare", "sentence"),
    [
        ("ASR_ENCODR=exact", "ASR_ENCODR is not a setting of this service; did you mean ASR_ENCODER?\n"),
        ("ASR_ENCODER=best", "ASR_ENCODER='best' cannot be used: input should be 'auto', 'exact' or 'cached'\n"),
        ("exact", "--compare 'exact' should be NAME=VALUE[,NAME=VALUE], for example ASR_ENCODER=exact.\n"),
    ],
)
def test_settings_to_compare_are_checked_first(compare: str, sentence: str) -> None:
    done = run("evaluate", "a.tsv", "--compare", compare)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--format", "srt", "a.wav", "b.wav"), "--format srt takes one recording at a time: run it once for each.\n"),
        (
            ("--format", "vtt", "--json", "a.wav"),
            "--json and --format vtt ask for different things: leave one of them out.\n",
        ),
    ],
)
def test_formats_that_do_not_go_together_are_refused_first(arguments: tuple[str, ...], sentence: str) -> None:
    done = run("transcribe", *arguments)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


def test_a_manifest_that_is_not_there_is_one_sentence_and_exit_code_1() -> None:
    done = run("evaluate", "no-such.tsv")

    assert (done.returncode, done.stdout, done.stderr) == (1, "", "no-such.tsv: No such file or directory.\n")


def test_traces_without_their_packages_are_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    # As if they were not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.exporter'] = None\n")

    done = run("serve", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}", ASR_TRACES__ENDPOINT="http://127.0.0.1:4318")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "ASR_TRACES__ENDPOINT is set, but traces need packages that are not installed: install 'asr-service[otel]', or "
        "unset it.\n"
    )
