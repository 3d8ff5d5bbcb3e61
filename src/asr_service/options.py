"""What callers may ask for with a recording, and how it becomes options of the engine.

Owns the names, descriptions and checks of options. Used by every way in: it must not know HTTP.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

from asr_service.domain import ModelInfo, Task, WindowOptions
from asr_service.errors import InvalidOption
from asr_service.text import languages

MAX_PROMPT_CHARACTERS = 4000
MAX_HOTWORDS = 200
MAX_HOTWORD_CHARACTERS = 64
MAX_TEMPERATURE = 1.0

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "language": {
        "description": "Language of the speech: a code (`en`), a regional tag (`zh-CN`) or an English name "
        "(`german`). Without it, or with `auto`, the model detects it.",
        "schema": {"type": "string"},
        "example": "en",
    },
    "prompt": {
        "description": "Text that tells the model about the recording: names, terms, what was said before.",
        "schema": {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS},
        "example": "A call about the ASR service on Kubernetes.",
    },
    "hotwords": {
        "description": f"Names and terms that are made likelier, separated by commas or new lines: at most "
        f"{MAX_HOTWORDS}, of at most {MAX_HOTWORD_CHARACTERS} characters each.",
        "schema": {"type": "string"},
        "example": "Kubernetes, Anneliese",
    },
    "task": {
        "description": "`transcribe` writes what is said; `translate` writes it in English, where the model can.",
        "schema": {"type": "string", "enum": ["transcribe", "translate"], "default": "transcribe"},
    },
    "temperature": {
        "description": "0 takes the likeliest words; up to 1, the model chooses more freely.",
        "schema": {"type": "number", "minimum": 0, "maximum": MAX_TEMPERATURE, "default": 0},
    },
    "words": {
        "description": "`true` finds the times of words (of characters, in Chinese and Japanese).",
        "schema": {"type": "boolean", "default": False},
    },
    "timestamps": {
        "description": "Where the times of segments come from: `vad`, the detector of speech; or `model`, the model's "
        "own, which cuts what is said into phrases. GLM-ASR has none.",
        "schema": {"type": "string", "enum": ["vad", "model"], "default": "vad"},
    },
}


def parse_options(fields: Mapping[str, str], model: ModelInfo) -> tuple[WindowOptions, tuple[str, ...]]:
    """The options in `fields` as `model` takes them, and warnings about what it cannot follow. Raises InvalidOption."""
    language, warnings = _language(fields.get("language", ""), model)
    words = boolean(fields, "words")
    if words and not model.word_times:
        raise InvalidOption(f"{model.name} has no aligner here, so it cannot give the times of words.", option="words")
    options = WindowOptions(
        language=language,
        prompt=_prompt(fields.get("prompt", "")),
        task=_task(fields.get("task", ""), model),
        temperature=_temperature(fields.get("temperature", "")),
        hotwords=parse_hotwords(fields.get("hotwords", "")),
        words=words,
        timestamps=_timestamps(fields.get("timestamps", ""), model),
    )
    return options, warnings


def _language(wanted: str, model: ModelInfo) -> tuple[str | None, tuple[str, ...]]:
    if model.languages:
        try:
            return languages.resolve(wanted, model.languages), ()
        except InvalidOption as error:
            error.option = "language"
            raise
    if wanted.strip().lower() in ("", "auto"):
        return None, ()
    return None, (
        f"The language {wanted.strip()[:40]!r} was not used: {model.name} always finds the language by itself.",
    )


def _prompt(text: str) -> str | None:
    prompt = text.strip() or None
    if prompt is not None and len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidOption(
            f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed.", option="prompt"
        )
    return prompt


def _task(text: str, model: ModelInfo) -> Task:
    task = text.strip() or "transcribe"
    if task not in ("transcribe", "translate"):
        raise InvalidOption(f"There is no task {task[:40]!r}; it is transcribe or translate.", option="task")
    if task == "translate" and not model.translates:
        raise InvalidOption(f"{model.name} cannot translate.", option="task")
    return cast(Task, task)


def _timestamps(text: str, model: ModelInfo) -> bool:
    """Whether the times of segments are the model's own."""
    source = text.strip() or "vad"
    if source not in ("vad", "model"):
        raise InvalidOption(f"There are no timestamps {source[:40]!r}; they are vad or model.", option="timestamps")
    if source == "model" and not model.timestamps:
        raise InvalidOption(f"{model.name} writes no timestamps of its own.", option="timestamps")
    return source == "model"


def _temperature(text: str) -> float:
    if not text.strip():
        return 0.0
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise InvalidOption(
            f"The temperature {text.strip()[:40]!r} is not a number between 0 and {MAX_TEMPERATURE:g}.",
            option="temperature",
        )
    return temperature


def parse_hotwords(text: str) -> tuple[str, ...]:
    """Hotwords from a text that separates them by commas or new lines, without doubles. Raises InvalidOption."""
    pieces = (" ".join(piece.split()) for line in text.splitlines() for piece in line.split(","))
    words = tuple(dict.fromkeys(piece for piece in pieces if piece))
    if len(words) > MAX_HOTWORDS:
        raise InvalidOption(f"There are {len(words)} hotwords; at most {MAX_HOTWORDS} are allowed.", option="hotwords")
    for word in words:
        if len(word) > MAX_HOTWORD_CHARACTERS:
            raise InvalidOption(
                f"The hotword {word[:40]!r}… has {len(word)} characters; at most {MAX_HOTWORD_CHARACTERS} are allowed.",
                option="hotwords",
            )
    return words


def boolean(fields: Mapping[str, str], name: str) -> bool:
    """A field that is true or false; false when it is absent. Raises InvalidOption."""
    value = fields.get(name, "").strip().lower()
    if value not in _TRUE + _FALSE:
        raise InvalidOption(f"The option {name!r} is true or false, not {value[:40]!r}.", option=name)
    return value in _TRUE
