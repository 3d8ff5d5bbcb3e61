"""Settings: defaults, the environment, and sentences for whatever is wrong."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from asr_service.settings import Settings, SettingsError, decoder_environment, engine_environment, variables

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("ASR_"):
            monkeypatch.delenv(name)


def problems(**overrides: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(**overrides)
    return caught.value.problems


def test_works_without_any_variable() -> None:
    settings = Settings.load()

    assert settings.model == "whisper-base"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.max_upload_bytes == 512 * 1024 * 1024
    assert settings.decode_worker_count == len(os.sched_getaffinity(0)) + 1


def test_reads_the_environment_and_nested_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_MODEL", "zai-org/GLM-ASR-Nano-2512")
    monkeypatch.setenv("ASR_MAX_BATCH", "4")
    monkeypatch.setenv("ASR_AUTH__MODE", "none")
    monkeypatch.setenv("ASR_DEVICE", "cuda:1")
    monkeypatch.setenv("ASR_DECODE_WORKERS", "3")
    monkeypatch.setenv("ASR_LOG_LEVEL", "")

    settings = Settings.load()

    assert (settings.model, settings.max_batch) == ("zai-org/GLM-ASR-Nano-2512", 4)
    assert (settings.auth.mode, settings.device, settings.decode_worker_count) == ("none", "cuda:1", 3)
    assert settings.log_level == "info"


def test_overrides_win_over_the_environment_unless_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_PORT", "9000")

    assert Settings.load(port=9001, host=None).port == 9001
    assert Settings.load(port=None).port == 9000


def test_given_variables_win_over_the_environment_and_are_checked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_MAX_BATCH", "4")
    monkeypatch.setenv("ASR_DTYPE", "float32")

    settings = Settings.load({"ASR_MAX_BATCH": "7", "asr_encoder": "exact", "ASR_AUTH__MODE": "none"})

    assert (settings.max_batch, settings.dtype, settings.encoder) == (7, "float32", "exact")
    with pytest.raises(SettingsError) as caught:
        Settings.load({"ENCODER": "exact", "ASR_MAX_BATCH": "0", "ASR_AUTH__MODE": "maybe"})
    unknown, *wrong = caught.value.problems
    assert unknown == "ENCODER is not a setting of this service; did you mean ASR_ENCODER?"
    assert {problem.partition(" ")[0] for problem in wrong} == {"ASR_MAX_BATCH='0'", "ASR_AUTH__MODE='maybe'"}


def test_is_frozen() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ASR_MODL", "x", "ASR_MODL is not a setting of this service; did you mean ASR_MODEL?"),
        ("ASR_AUTH_MODE", "none", "did you mean ASR_AUTH__MODE?"),
        ("asr_prot", "1", "did you mean ASR_PORT?"),
        ("ASR_QQQQQQ", "1", "docs/settings.md"),
        ("ASR_PORT", "abc", "ASR_PORT='abc' cannot be used: input should be a valid integer"),
        ("ASR_PORT", "70000", "less than or equal to 65535"),
        ("ASR_DEVICE", "gpu", "ASR_DEVICE='gpu' cannot be used: it should be auto, cpu, cuda"),
        ("ASR_DTYPE", "int8", "ASR_DTYPE='int8'"),
        ("ASR_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("ASR_AUTH__MODE", "required", "needs something to check callers by: set ASR_AUTH__KEYS_FILE, "),
        ("ASR_AUTH__MODE", "maybe", "ASR_AUTH__MODE='maybe'"),
        ("ASR_AUTH", "x", "ASR_AUTH is not a setting of this service; did you mean ASR_AUTH__MODE?"),
        ("ASR_AUTH__JWT__JWKS_URL", "http://id.example/keys", "it should start with https://"),
        ("ASR_AUTH__JWT__JWKS_URL", "http://127.0.0.1:1@id.example/", "it should start with https://"),
        ("ASR_AUTH__JWT__JWKS_URL", "https://", "it should start with https://"),
        ("ASR_AUTH__JWT__LEEWAY_S", "-1", "ASR_AUTH__JWT__LEEWAY_S='-1' cannot be used"),
        ("ASR_CORS_ORIGINS", "app.example", "it should be origins as browsers write them"),
        ("ASR_CORS_ORIGINS", "https://app.example/", "without a path"),
        ("ASR_CORS_ORIGINS", "https://App.example", "in small letters"),
        ("ASR_CORS_ORIGINS", "https://app.example,*", "or * alone"),
        ("ASR_CORS_ORIGINS", "https://*.app.example", "it should be origins"),
        ("ASR_CORS_ORIGINS", "null", "it should be origins"),
        ("ASR_AUTH__JWT__SECRET", "too weak", "ASR_AUTH__JWT__SECRET=*** cannot be used"),
        ("ASR_HOST", "0.0.0.0", "is not a loopback address"),
        ("ASR_HOST", "example.org", "is not a loopback address"),
        ("ASR_HOST", "::", "is not a loopback address"),
        ("ASR_TRUSTED_PROXIES", "*", "'*' is neither an address nor a network such as 10.0.0.0/8"),
        ("ASR_TRUSTED_PROXIES", "127.0.0.1, nginx", "'nginx' is neither an address nor a network"),
        ("ASR_TRUSTED_PROXIES", "10.0.0.1/8", "'10.0.0.1/8' is neither an address nor a network"),
    ],
)
def test_one_sentence_for_each_problem(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)

    (problem,) = problems()

    assert sentence in problem
    assert "\n" not in problem


@pytest.mark.parametrize("secret", ["short", "a" * 64, "0123456701234567012345670123456701234567"])
def test_weak_secrets_are_refused(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("ASR_AUTH__JWT__SECRET", secret)

    (problem,) = problems()

    assert problem == (
        "ASR_AUTH__JWT__SECRET=*** cannot be used: it should be at least 32 random bytes, for example from "
        "`openssl rand -base64 48`"
    )


HIDDEN = "hunter2-hunter2-hunter2-ABCDEFGHIJKLMNOP"


@pytest.mark.parametrize(
    "variables_",
    [
        {"ASR_AUTH__JWT__SECRET": "hunter2"},
        {"ASR_AUTH__JWT__SECRET": HIDDEN, "ASR_AUTH__MODE": "maybe"},
        {"ASR_AUTH__JWT__SECRET": HIDDEN, "ASR_AUTH__JWT__LEEWAY_S": "long", "ASR_HOST": "0.0.0.0"},
        {"ASR_AUTH__JWT__SECRET": HIDDEN, "ASR_HOST": "0.0.0.0"},
        {"ASR_AUTH__JWT__SECRETS": HIDDEN},
        {"ASR_AUTH__JWT": HIDDEN},
        {"ASR_AUTH": f'{{"jwt": {{"secret": "{HIDDEN}", "secrets": "{HIDDEN}"}}}}'},
        {"ASR_AUTH": f'{{"jwt": {{"secret": "{HIDDEN}"'},
        {"ASR_AUTH__JWT__JWKS_URL": "http://me:hunter2@id.example/keys"},
        {"ASR_REDIS_URL": "redis://:hunter2@", "ASR_PORT": "x"},
        {"ASR_REDIS_URL": "http://:hunter2@redis", "ASR_PORT": "x"},
    ],
    ids=lambda given: " ".join(f"{name}={value}" for name, value in given.items()),
)
def test_problems_never_show_a_secret(monkeypatch: pytest.MonkeyPatch, variables_: dict[str, str]) -> None:
    for name, value in variables_.items():
        monkeypatch.setenv(name, value)

    found = problems()

    assert found
    assert "hunter2" not in "".join(found)


def test_others_may_listen_when_callers_are_checked() -> None:
    settings = Settings.load(host="0.0.0.0", auth={"mode": "required", "keys_file": "keys.json"})

    assert (settings.host, settings.auth.keys_file) == ("0.0.0.0", Path("keys.json"))


def test_all_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_NONSENSE", "1")
    monkeypatch.setenv("ASR_PORT", "abc")
    monkeypatch.setenv("ASR_MAX_BATCH", "0")

    assert len(problems()) == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_loopback_addresses_are_accepted(host: str) -> None:
    assert Settings.load(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "", "127.0.0.1.example.org"])
def test_other_addresses_are_refused_on_the_command_line_too(host: str) -> None:
    assert "loopback" in problems(host=host)[0]


def test_nobody_is_trusted_as_a_proxy_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().trusted_proxy_networks == ()
    monkeypatch.setenv("ASR_TRUSTED_PROXIES", "127.0.0.1, ::1,10.1.0.0/16,")
    assert Settings.load().trusted_proxy_networks == ("127.0.0.1", "::1", "10.1.0.0/16")


def test_cache_folder_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Settings.load().cache_dir == Path("/home/someone/.cache/asr-service")

    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert Settings.load().cache_dir == Path("/var/cache/asr-service")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert Settings.load().cache_dir == Path("/home/someone/.cache/asr-service")

    monkeypatch.setenv("ASR_CACHE_DIR", "~/models")
    assert Settings.load().cache_dir == Path("/home/someone/models")


def test_children_see_only_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/cuda",
        "HF_TOKEN": "hub-secret",
        "https_proxy": "http://proxy",
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "2",
        "ASR_AUTH__JWT__SECRET": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "asr_lower": "secret",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    decoder, engine = decoder_environment(), engine_environment()

    assert {name for name in given if name in decoder} == {"PATH", "LD_LIBRARY_PATH"}
    assert {name for name in given if name in engine} == {
        "PATH",
        "LD_LIBRARY_PATH",
        "HF_TOKEN",
        "https_proxy",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
    }
    assert "secret" not in (set(decoder.values()) | set(engine.values()))


def test_every_setting_is_described_and_documented() -> None:
    documented = DOCS.read_text()
    for variable in variables():
        assert f"`{variable}`" in documented, f"{variable} is missing in docs/settings.md"
    settings = Settings.load()
    groups = (settings.auth, settings.auth.jwt, settings.rate_limit, settings.traces)
    for tree in (Settings, *(type(group) for group in groups)):
        for name, field in tree.model_fields.items():
            assert field.description, f"{name} has no description"


def test_no_documented_setting_is_unknown() -> None:
    assert set(re.findall(r"`(ASR_[A-Z0-9_]+)`", DOCS.read_text())) == set(variables())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/1", "rediss://:word@redis.example", "unix:///run/redis.sock"])
def test_addresses_of_redis(url: str) -> None:
    given = Settings.load(redis_url=url).redis_url
    assert given is not None
    assert given.get_secret_value() == url


@pytest.mark.parametrize(
    "url", ["127.0.0.1:6379", "http://redis:6379", "redis://", "redis://:word@host:port", "unix://"]
)
def test_what_is_no_address_of_redis_is_refused_without_its_password(url: str) -> None:
    (sentence,) = problems(redis_url=url)
    assert "redis://HOST:PORT" in sentence
    assert "word" not in sentence


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://otel.example/team/", "https://otel.example/team/v1/traces"),
        ("http://localhost:4318/v1/traces", "http://localhost:4318/v1/traces"),
    ],
)
def test_traces_go_to_the_path_that_otlp_gives_them(monkeypatch: pytest.MonkeyPatch, endpoint: str, url: str) -> None:
    assert Settings.load().traces.url is None
    monkeypatch.setenv("ASR_TRACES__ENDPOINT", endpoint)
    assert Settings.load().traces.url == url


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:4318", "grpc://localhost:4317", "http://user:word@otel.example", "http://otel.example/?key=word"],
)
def test_what_is_no_address_of_a_collector_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("ASR_TRACES__ENDPOINT", endpoint)
    (sentence,) = problems()
    assert sentence.startswith("ASR_TRACES__ENDPOINT=")
    assert "word" not in sentence


def test_header_fields_for_the_collector_are_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_TRACES__HEADERS", "Authorization=Basic YWJj=, x-team = speech")
    settings = Settings.load()
    assert settings.traces.fields == {"authorization": "Basic YWJj=", "x-team": "speech"}
    assert settings.changed()["ASR_TRACES__HEADERS"] == "***"
    assert {"Basic YWJj=", "speech"} <= set(settings.secrets())

    monkeypatch.setenv("ASR_TRACES__HEADERS", "word")
    (sentence,) = problems()
    assert "name=value" in sentence
    assert "word" not in sentence
