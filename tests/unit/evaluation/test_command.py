"""A whole evaluation with a fake engine: the report, lines per recording, the comparison, what failed."""

import contextlib
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from asr_service.batch import ProgressBar
from asr_service.domain import ModelInfo, WindowResult
from asr_service.errors import EngineError, InvalidOption, ModelUnavailable
from asr_service.evaluation import EvaluationError, require
from asr_service.evaluation.command import Configuration, Recordings, assignments, evaluate
from asr_service.evaluation.run import Plan
from asr_service.service import Decoder, Engine
from tests.fakes import GLM_ASR, WHISPER, FakeDecoder, FakeEngine, result

REFERENCES = [("press the key", "en"), ("thank you very much", "en"), ("eins zwei", "de"), ("我們去台灣", "zh")]
Answer = str | WindowResult | Exception
RIGHT: list[Answer] = ["Press the key.", "Thank you, very much!", "Eins, zwei.", "我们去台湾。"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = ["audio\treference\tlanguage"]
    for number, (text, language) in enumerate(REFERENCES):
        (tmp_path / f"{number}.wav").write_bytes(b"audio")
        lines.append(f"{number}.wav\t{text}\t{language}")
    path = tmp_path / "manifest.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


class Setup:
    """One configuration on fakes, a file at a time so that answers meet their files."""

    def __init__(
        self,
        answers: Sequence[Answer],
        label: str = "as set",
        *,
        model: ModelInfo = WHISPER,
        tell_language: bool = True,
    ) -> None:
        self.answers = [result(answer) if isinstance(answer, str) else answer for answer in answers]
        self.model = model
        self.engine: FakeEngine | None = None
        self.configuration = Configuration(label, self.start, Plan(1, 1, tell_language=tell_language))

    @contextlib.asynccontextmanager
    async def start(self, bar: ProgressBar) -> AsyncIterator[tuple[Engine, Decoder]]:
        self.engine = FakeEngine(self.answers, model=self.model)
        yield self.engine, FakeDecoder()
        self.engine.events.append("stopped")

    @property
    def languages(self) -> list[str | None]:
        assert self.engine is not None
        return [call.options.language for call in self.engine.calls]


def figures(manifest: Path, *setups: Setup) -> dict[str, Any]:
    out = io.StringIO()
    evaluate(Recordings(str(manifest)), [setup.configuration for setup in setups], out, as_json=True)
    return dict(json.loads(out.getvalue()))


def rates(run: dict[str, Any]) -> dict[tuple[str, str], float | None]:
    return {(row["language"], row["metric"]): row["rate"] for row in run["rows"]}


def test_counts_by_language_and_over_all_that_share_a_metric(manifest: Path) -> None:
    (run,) = figures(manifest, Setup(["Press a key.", RIGHT[1], "Eins drei.", "我们去台北"]))["runs"]

    assert rates(run) == {
        ("de", "WER"): 1 / 2,
        ("en", "WER"): 1 / 7,
        ("all", "WER"): 2 / 9,
        ("zh", "CER"): 1 / 5,
    }
    assert (run["files"], run["failed"], run["audio_s"]) == (4, 0, 4.0)
    assert run["rtfx"] == pytest.approx(4.0 / run["wall_s"])


def test_each_recording_is_given_its_language(manifest: Path) -> None:
    told, left_alone = Setup(RIGHT), Setup(RIGHT, tell_language=False)
    figures(manifest, told)
    figures(manifest, left_alone)

    assert told.languages == ["en", "en", "de", "zh"]
    assert left_alone.languages == [None] * 4


def test_a_model_that_takes_no_language_is_not_given_one(manifest: Path) -> None:
    setup = Setup(RIGHT, model=GLM_ASR)
    figures(manifest, setup)

    assert setup.languages == [None] * 4


def test_a_language_that_the_model_does_not_know_ends_it(manifest: Path) -> None:
    manifest.write_text("audio\ttext\tlanguage\n0.wav\tx\tyue\n", encoding="utf-8")

    with pytest.raises(InvalidOption, match="yue"):
        figures(manifest, Setup(["x"]))


def test_a_failed_file_counts_in_no_rate_and_is_reported(manifest: Path, tmp_path: Path) -> None:
    setup = Setup([RIGHT[0], EngineError("The model failed."), *RIGHT[2:]])
    out, lines = io.StringIO(), tmp_path / "lines.jsonl"

    failed = evaluate(Recordings(str(manifest)), [setup.configuration], out, output=lines)

    assert failed == 1
    assert "4 files (1 failed)" in out.getvalue()
    read = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [line.get("error") for line in read] == [None, "The model failed.", None, None]


def test_lines_hold_texts_counts_and_warnings(manifest: Path, tmp_path: Path) -> None:
    setup = Setup([RIGHT[0], RIGHT[1], RIGHT[2], result("我们要去台北", "zh", guard="loop")])
    lines = tmp_path / "lines.jsonl"

    evaluate(Recordings(str(manifest)), [setup.configuration], io.StringIO(), output=lines)

    last = json.loads(lines.read_text(encoding="utf-8").splitlines()[-1])
    assert last.pop("warnings")[0].startswith("The text between ")
    assert last == {
        "run": "as set",
        "file": "3.wav",
        "language": "zh",
        "reference": "我們去台灣",
        "text": "我们要去台北",
        "normalised": {"reference": "我们去台湾", "text": "我们要去台北"},
        "units": 5,
        "substitutions": 1,
        "deletions": 0,
        "insertions": 1,
        "rate": 0.4,
        "duration_s": 1.0,
        "transcript_language": "zh",
    }


def test_stopped_and_runaway_texts_are_counted(manifest: Path) -> None:
    answers: list[Answer] = [RIGHT[0], result("no " * 20, guard="loop"), result("nein " * 12, guard="budget"), RIGHT[3]]

    (run,) = figures(manifest, Setup(answers))["runs"]

    assert run["guards"] == {"loop": 1, "budget": 1}
    assert run["runaways"] == 2


def test_compares_two_runs_on_the_same_files(manifest: Path) -> None:
    second: list[Answer] = ["press the key", "thank you very", "eins drei", EngineError("The model failed.")]
    document = figures(manifest, Setup(RIGHT), Setup(second, "ASR_ENCODER=exact"))

    assert [run["label"] for run in document["runs"]] == ["as set", "ASR_ENCODER=exact"]
    by_language = {row["language"]: row for row in document["comparison"]}
    assert set(by_language) == {"de", "en", "all"}
    everything = by_language["all"]
    assert (everything["files"], everything["texts"], everything["normalised"]) == (3, 3, 2)
    assert (everything["better"], everything["worse"]) == (0, 2)
    assert by_language["de"]["rate"] == 0.5
    assert by_language["de"]["interval"] is None


def test_the_first_engine_is_stopped_before_the_second_starts(manifest: Path) -> None:
    first, second = Setup(RIGHT), Setup(RIGHT, "second")
    stopped_by_then: list[bool] = []
    start = second.start

    def watched(bar: ProgressBar) -> Any:
        assert first.engine is not None
        stopped_by_then.append(first.engine.events == ["stopped"])
        return start(bar)

    configurations = [first.configuration, Configuration("second", watched, Plan(1, 1))]
    evaluate(Recordings(str(manifest)), configurations, io.StringIO())

    assert stopped_by_then == [True]


def test_tables_say_the_same_in_words(manifest: Path) -> None:
    out = io.StringIO()
    configurations = [
        Setup(RIGHT).configuration,
        Setup([*RIGHT[:2], "eins drei", RIGHT[3]], "ASR_DTYPE=float32").configuration,
    ]
    evaluate(Recordings(str(manifest)), configurations, out)

    words = [line.split() for line in out.getvalue().splitlines()]
    assert ["de", "WER", "1", "2", "0", "0", "0", "0.00%", "–"] in words
    assert ["de", "WER", "1", "2", "1", "0", "0", "50.00%", "–"] in words
    assert ["de", "WER", "1", "+50.00%", "–", "0", "1", "1", "1"] in words
    assert "ASR_DTYPE=float32 against as set" in out.getvalue()


def test_nothing_is_transcribed_when_the_output_cannot_be_written(manifest: Path, tmp_path: Path) -> None:
    setup = Setup(RIGHT)

    with pytest.raises(EvaluationError, match="No such file or directory"):
        evaluate(
            Recordings(str(manifest)), [setup.configuration], io.StringIO(), output=tmp_path / "none" / "lines.jsonl"
        )
    assert setup.engine is None


def test_a_model_that_cannot_be_had_ends_it(manifest: Path) -> None:
    @contextlib.asynccontextmanager
    async def start(bar: ProgressBar) -> AsyncIterator[tuple[Engine, Decoder]]:
        engine = FakeEngine()
        engine.load_error = ModelUnavailable("There is no such model.")
        await engine.wait_ready()
        yield engine, FakeDecoder()

    with pytest.raises(ModelUnavailable):
        evaluate(Recordings(str(manifest)), [Configuration("as set", start, Plan(1, 1))], io.StringIO())


def test_settings_to_compare() -> None:
    assert assignments("ASR_ENCODER=exact, ASR_MODEL=a=b") == {"ASR_ENCODER": "exact", "ASR_MODEL": "a=b"}


@pytest.mark.parametrize("given", ["ASR_ENCODER", "=exact", "ASR_ENCODER=", "ASR_ENCODER=exact,", ","])
def test_settings_to_compare_that_are_none(given: str) -> None:
    with pytest.raises(ValueError, match="should be NAME=VALUE"):
        assignments(given)


def test_missing_packages_are_one_sentence() -> None:
    with pytest.raises(EvaluationError) as caught:
        require(("json", "no_such_package_a", "no_such_package_b"))
    assert str(caught.value) == (
        "The evaluator needs packages that are not installed (no_such_package_a, no_such_package_b): "
        "pip install 'asr-service[eval]'."
    )
    require()
