"""What a window's options make of real speech: translation, log probabilities, temperature and hotwords."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GlmAsrForConditionalGeneration, GlmAsrProcessor, WhisperForConditionalGeneration

from asr_service.domain import WindowOptions
from asr_service.engine.messages import Finished
from asr_service.models.base import NewSequence
from asr_service.models.glm_asr import GlmAsrRunner
from asr_service.models.whisper import WhisperRunner
from tests.checkpoints import glm_model, glm_processor
from tests.recordings import load_pcm, packaged_clips, shared_recordings
from tests.unit.models.batching import finished_in_batch
from tests.unit.models.test_glm_asr import noise

CLIPS = {f"{path.parent.name}/{path.stem}": path for path in packaged_clips()}
NO_SPEECH = 50362
SHARED = {path.stem: path for path in shared_recordings()}


def say(runner: WhisperRunner, paths: list[Path], options: list[WindowOptions]) -> list[Finished]:
    return finished_in_batch(runner, [load_pcm(path) for path in paths], options)


def text_of(details: Finished) -> str:
    return b"".join(token.data for token in details.details).decode().strip()


def test_whisper_translates_into_english_beside_windows_that_it_transcribes(whisper_runner: WhisperRunner) -> None:
    assert whisper_runner.info.translates
    path = CLIPS["es/hola_mundo"]
    spanish, english, detected = say(
        whisper_runner,
        [path] * 3,
        [WindowOptions("es"), WindowOptions("es", task="translate"), WindowOptions(task="translate")],
    )
    assert "mundo" in spanish.text.lower()
    assert "world" in english.text.lower()
    assert detected.text == english.text
    assert detected.language == "es"


@torch.inference_mode()
def reference_logprobs(
    model: WhisperForConditionalGeneration, features: torch.Tensor, tokens: list[int]
) -> list[float]:
    """Of English tokens, from transformers' own logits with the suppression of its `generate`."""
    config = model.generation_config
    prompt = [
        config.decoder_start_token_id,
        config.lang_to_id["<|en|>"],
        config.task_to_id["transcribe"],
        config.no_timestamps_token_id,
    ]
    logits = model(features, decoder_input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logits[:, config.suppress_tokens] = float("-inf")
    logits[0, config.begin_suppress_tokens] = float("-inf")
    worth: list[float] = logits.log_softmax(dim=-1)[range(len(tokens)), tokens].tolist()
    return worth


@pytest.mark.parametrize(
    "options",
    [
        WindowOptions("en", logprobs=True),
        WindowOptions("en", logprobs=True, temperature=0.6, hotwords=("Rumpelstiltskin", "fox")),
    ],
    ids=["greedy", "drawn"],
)
def test_whispers_log_probabilities_are_transformers_own(
    options: WindowOptions, whisper_runner: WhisperRunner, whisper_reference: WhisperForConditionalGeneration
) -> None:
    paths = [CLIPS["en/quick_brown_fox"], CLIPS["en/counting"]]
    answers = say(whisper_runner, paths, [options, WindowOptions("en", logprobs=True)])
    for path, answer in zip(paths, answers, strict=True):
        tokens = [token.id for token in answer.details]
        features = torch.from_numpy(whisper_runner.features(load_pcm(path)).log_mel)[None]
        expected = reference_logprobs(whisper_reference, features, tokens)
        assert [token.logprob for token in answer.details] == pytest.approx(expected, abs=2e-3)
        assert len(tokens) == answer.tokens > 5
        assert text_of(answer) == answer.text


def test_how_likely_it_is_that_nobody_speaks_is_as_in_transformers(
    whisper_runner: WhisperRunner, whisper_reference: WhisperForConditionalGeneration
) -> None:
    """By the definition of the reference implementation: all tokens count, those too that are never said."""
    prompt = "As was said before."
    windows = [load_pcm(CLIPS["en/counting"]), np.random.default_rng(0).integers(-20, 20, 48_000, dtype=np.int16)]
    features = [whisper_runner.features(pcm) for pcm in windows]
    asking = [WindowOptions("en", no_speech=True), WindowOptions("en", prompt, no_speech=True), WindowOptions("en")]
    batch = [NewSequence(own, options) for own, options in zip([*features, features[1]], asking, strict=True)]
    speech, nobody, unasked = (admitted.no_speech_prob for admitted in whisper_runner.admit(0, batch))
    start = whisper_reference.generation_config.decoder_start_token_id
    expected = []
    for own, ids in zip(features, ([start], [50361, *whisper_runner.spell(prompt)[0], start]), strict=True):
        with torch.inference_mode():
            answer = whisper_reference(torch.from_numpy(own.log_mel)[None], decoder_input_ids=torch.tensor([ids]))
        expected.append(float(answer.logits[0, -1].softmax(dim=-1)[NO_SPEECH]))
    assert [speech, nobody] == pytest.approx(expected, rel=1e-3)
    assert expected[0] < expected[1]
    assert unasked is None


def test_the_bytes_of_chinese_tokens_are_its_text(whisper_runner: WhisperRunner) -> None:
    (answer,) = say(whisper_runner, [CLIPS["zh/pangrama"]], [WindowOptions("zh", logprobs=True)])
    assert text_of(answer) == answer.text
    assert all(token.logprob <= 0 for token in answer.details)


def test_a_temperature_draws_other_words_and_changes_nothing_for_neighbours(whisper_runner: WhisperRunner) -> None:
    polish, french = CLIPS["pl/pangrama"], CLIPS["fr/bonjour_monde"]
    greedy = [WindowOptions("pl"), WindowOptions("fr")]
    plain = [answer.text for answer in say(whisper_runner, [polish, french], greedy)]
    warm = [WindowOptions("pl", temperature=0.8)] * 2
    drawn = say(whisper_runner, [polish, polish, polish, french], warm + greedy)
    assert [answer.text for answer in drawn[2:]] == plain
    assert len({answer.text for answer in drawn[:3]}) > 1


UNRELATED = [
    "Anneliese",
    "Kubernetes",
    "Bartholomew",
    "Siobhan",
    "Zuzana",
    "Nakamura",
    "Reykjavik",
    "Schwarzenegger",
    "PostgreSQL",
    "Nguyen",
    "The Hague",
    "New Zealand",
    "Worcestershire",
    "Tchaikovsky",
    "Ljubljana",
    "Xiaomi",
    "Quetzalcoatl",
    "GLM-ASR",
    "Saoirse",
    "Llewellyn",
]


def test_a_rare_word_is_recovered_by_a_hotword_among_many(whisper_runner: WhisperRunner) -> None:
    path = CLIPS["it/pangrama"]
    plain, led, beside = say(
        whisper_runner,
        [path] * 3,
        [WindowOptions("it"), WindowOptions("it", hotwords=(*UNRELATED, "vituperabile")), WindowOptions("it")],
    )
    assert "vituperabile" not in plain.text
    assert "vituperabile" in led.text
    assert beside.text == plain.text


def test_other_texts_are_not_harmed_by_unrelated_hotwords(whisper_runner: WhisperRunner) -> None:
    """Of clips that are recognised to begin with; where all is noise to the model, anything changes it."""
    names = ("en/quick_brown_fox", "en/counting", "it/pangrama", "zh/jishu")
    paths = [*(CLIPS[name] for name in names), *(path for path in SHARED.values() if "librispeech" in path.stem)]
    languages = [path.parent.name if path.stem not in SHARED else None for path in paths]
    plain = say(whisper_runner, paths, [WindowOptions(language) for language in languages])
    led = say(whisper_runner, paths, [WindowOptions(language, hotwords=tuple(UNRELATED)) for language in languages])
    assert [answer.text for answer in led] == [answer.text for answer in plain]


@pytest.fixture(scope="module")
def glm_processor_of_tests() -> GlmAsrProcessor:
    return glm_processor()


@pytest.fixture(scope="module")
def glm_reference() -> GlmAsrForConditionalGeneration:
    return glm_model(0)


@pytest.fixture(scope="module")
def glm_runner(glm_reference: GlmAsrForConditionalGeneration, glm_processor_of_tests: GlmAsrProcessor) -> GlmAsrRunner:
    return GlmAsrRunner(glm_reference, glm_processor_of_tests, name="small", slots=4, started=0.0)


@torch.inference_mode()
def test_glm_asrs_log_probabilities_are_transformers_own(
    glm_runner: GlmAsrRunner, glm_reference: GlmAsrForConditionalGeneration, glm_processor_of_tests: GlmAsrProcessor
) -> None:
    assert not glm_runner.info.translates
    window = noise(1.0)
    plain, (answer) = finished_in_batch(
        glm_runner, [noise(2.2), window], [WindowOptions(), WindowOptions(logprobs=True)]
    )
    inputs = glm_processor_of_tests.apply_transcription_request(window.astype("float32") / 32768)
    reference = glm_reference.generate(
        **inputs, do_sample=False, max_new_tokens=16, output_logits=True, return_dict_in_generate=True
    )
    said = reference.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    expected = [float(step[0].log_softmax(dim=-1)[token]) for step, token in zip(reference.logits, said, strict=True)]
    count = min(len(answer.details), len(said))
    assert count > 5
    assert [token.id for token in answer.details[:count]] == said[:count]
    assert [token.logprob for token in answer.details[:count]] == pytest.approx(expected[:count], abs=1e-3)
    assert plain.details == ()


def test_glm_asr_is_led_towards_hotwords_from_its_first_token_on(glm_runner: GlmAsrRunner) -> None:
    window = noise(1.0)
    (plain,) = finished_in_batch(glm_runner, [window], [WindowOptions(logprobs=True)])
    first = plain.details[0].id
    hotwords = tuple("abcdefghijklmnopqrstuvwxyz")
    led, beside = finished_in_batch(
        glm_runner, [window, window], [WindowOptions(logprobs=True, hotwords=hotwords), WindowOptions()]
    )
    assert led.details[0].id != first
    assert led.details[0].data.decode().strip() in ("", *hotwords)
    assert beside.text == plain.text


@pytest.mark.parametrize("prompt", [pytest.param(None, marks=pytest.mark.slow), "As was said before."])
@torch.inference_mode()
def test_whisper_goes_on_from_a_prefix_as_transformers_does(
    prompt: str | None, whisper_runner: WhisperRunner, whisper_reference: WhisperForConditionalGeneration
) -> None:
    """In one batch with others, whose prompts have other lengths."""
    path = CLIPS["en/quick_brown_fox"]
    (whole,) = say(whisper_runner, [path], [WindowOptions("en", prompt)])
    words = whole.text.split()
    prefixes = [" ".join(words[:count]) for count in (1, len(words) // 2, len(words))]
    answers = say(
        whisper_runner,
        [path] * (len(prefixes) + 1),
        [*(WindowOptions("en", prompt, prefix=prefix) for prefix in prefixes), WindowOptions("en", prompt)],
    )
    config = whisper_reference.generation_config
    before = [50361, *whisper_runner.spell(prompt)[0]] if prompt else []
    start = [config.decoder_start_token_id, config.lang_to_id["<|en|>"], config.task_to_id["transcribe"]]
    features = torch.from_numpy(whisper_runner.features(load_pcm(path)).log_mel)[None]
    states = whisper_reference.get_encoder()(features)
    for prefix, answer in zip(prefixes, answers, strict=False):
        ids = [*before, *start, config.no_timestamps_token_id, *whisper_runner.spell(prefix)[0]]
        while ids[-1] not in whisper_runner.stop_ids:
            logits = whisper_reference(encoder_outputs=states, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            logits[config.suppress_tokens] = float("-inf")
            ids.append(int(logits.argmax()))
        expected = whisper_runner.text(ids[len(before) + len(start) + 1 : -1])
        assert answer.text == expected
        assert answer.text.startswith(prefix)
    assert answers[-1].text == whole.text


def test_a_finished_text_as_prefix_says_nothing_more(whisper_runner: WhisperRunner) -> None:
    paths = [CLIPS["en/quick_brown_fox"], CLIPS["zh/pangrama"]]
    texts = [answer.text for answer in say(whisper_runner, paths, [WindowOptions("en"), WindowOptions("zh")])]
    again = say(whisper_runner, paths, [WindowOptions("en", prefix=texts[0]), WindowOptions("zh", prefix=texts[1])])
    assert [answer.text for answer in again] == texts
    assert [answer.tokens for answer in again] == [0, 0]


@pytest.mark.parametrize("prefix_words", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_a_guess_changes_no_text_and_is_not_computed_again_where_it_is_right(
    prefix_words: int, whisper_runner: WhisperRunner
) -> None:
    path = CLIPS["en/quick_brown_fox"]
    (plain,) = say(whisper_runner, [path], [WindowOptions("en")])
    words = plain.text.split(" ")
    prefix, rest = " ".join(words[:prefix_words]), " ".join(words[prefix_words:])
    lead = " " if prefix else ""
    guesses = [
        lead + rest,
        lead + " ".join(words[prefix_words : prefix_words + 3]),
        lead + " ".join(words[prefix_words : prefix_words + 2]) + " elephant in the room",
        lead + "Something else",
        lead + rest + " And then some more.",
        "",
    ]
    options = [WindowOptions("en", prefix=prefix, guess=guess) for guess in guesses]
    answers = say(whisper_runner, [path] * len(guesses), options)
    assert [answer.text for answer in answers] == [plain.text] * len(guesses)
    steps = [answer.timings.decode_steps for answer in answers]
    assert steps[0] == 0
    assert steps[0] < steps[1] < steps[5]
    assert steps[3] == steps[5] == answers[5].tokens
    assert len({answer.tokens for answer in answers}) == 1


def test_a_guess_counts_for_nothing_where_tokens_are_drawn_or_counted(whisper_runner: WhisperRunner) -> None:
    path = CLIPS["en/quick_brown_fox"]
    (plain, guessed) = say(
        whisper_runner,
        [path] * 2,
        [WindowOptions("en", logprobs=True), WindowOptions("en", logprobs=True, guess="The quick brown")],
    )
    assert [token.id for token in guessed.details] == [token.id for token in plain.details]
    assert guessed.timings.decode_steps == plain.timings.decode_steps
