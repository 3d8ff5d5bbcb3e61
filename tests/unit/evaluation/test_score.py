"""Scores: the standard normalisers, words and characters, runaway texts."""

import subprocess
import sys

import pytest

from asr_service.evaluation.normalise import scale
from asr_service.evaluation.score import Counts, score


@pytest.mark.parametrize(
    ("language", "text", "normalised"),
    [
        ("en", "Mr. Smith's colour won't cost twenty-one dollars, um…", "mister smith is color will not cost $21"),
        ("en", "well... exactly…", "well exactly"),
        ("en", "[beep] Hello (softly) there!", "hello there"),
        ("de", "Straße, „Grüße“ – 20 %!", "straße grüße 20"),
        ("fr", "L'été  déjà vu.", "l été déjà vu"),
        ("ko", "안녕하세요, 세계!", "안녕하세요 세계"),
        ("zh", "他說：「我們去台灣。」", "他说我们去台湾"),
        ("zh", "乾燥的頭髮，用 Wi-Fi", "干燥的头发用wifi"),
        ("yue", "佢哋喺邊度？", "佢哋喺边度"),
        ("ja", "学校へ行く、トラック。", "学校へ行くトラック"),
        ("ja", "東京へ 10 時", "東京へ10時"),
    ],
)
def test_normalised_texts(language: str, text: str, normalised: str) -> None:
    assert scale(language).normalise(text) == normalised


@pytest.mark.parametrize(
    ("language", "metric"), [("en", "WER"), ("ko", "WER"), ("zh", "CER"), ("yue", "CER"), ("ja", "CER"), ("th", "CER")]
)
def test_the_metric_follows_the_script(language: str, metric: str) -> None:
    assert scale(language).metric == metric


@pytest.mark.parametrize(
    ("language", "reference", "text", "counts"),
    [
        ("en", "the cat sat down", "The cat sat down.", Counts(4)),
        ("en", "the cat sat down", "a cat sat", Counts(4, substitutions=1, deletions=1)),
        ("en", "the cat", "the big cat", Counts(2, insertions=1)),
        ("en", "the cat", "", Counts(2, deletions=2)),
        ("en", "[silence]", "thank you", Counts(0, insertions=2)),
        ("en", "", "", Counts(0)),
        ("zh", "我們 去台灣。", "我们去台湾", Counts(5)),
        ("zh", "我們去台灣", "我们要去台北", Counts(5, substitutions=1, insertions=1)),
        ("yue", "", "唔該", Counts(0, insertions=2)),
    ],
)
def test_errors_are_counted(language: str, reference: str, text: str, counts: Counts) -> None:
    assert score(reference, text, language).counts == counts


def test_a_score_shows_what_was_compared() -> None:
    result = score("Colour!", "It's color.", "en")

    assert (result.reference, result.text) == ("color", "it is color")


def test_rates() -> None:
    assert Counts(4, 1, 1, 1).rate == 0.75
    assert Counts(2, 0, 0, 5).rate == 2.5
    assert Counts(0, 0, 0, 5).rate is None
    assert Counts(4, 1, 2, 3) + Counts(10, 1, 1, 1) == Counts(14, 2, 3, 4)


@pytest.mark.parametrize(
    ("counts", "ran_away"),
    [
        (Counts(3, insertions=10), True),
        (Counts(3, insertions=9), False),
        (Counts(20, insertions=20), False),
        (Counts(20, insertions=21), True),
        (Counts(20, substitutions=20, deletions=5), False),
    ],
)
def test_a_text_runs_away_that_adds_more_than_its_reference(counts: Counts, ran_away: bool) -> None:
    assert counts.ran_away is ran_away


def test_scoring_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from asr_service.evaluation import command, score\n"
        "score.score('a', 'b', 'en'); score.score('a', 'b', 'zh'); score.score('a', 'b', 'de')\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
