"""What callers may ask for with a recording, and how it becomes options of the engine.

Owns the names, descriptions and checks of options. Used by every way in: it must not know HTTP.
"""

from collections.abc import Mapping
from typing import Any

from asr_service.domain import ModelInfo, WindowOptions
from asr_service.errors import InvalidOption
from asr_service.text import languages

MAX_PROMPT_CHARACTERS = 4000

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
}


def parse_options(fields: Mapping[str, str], model: ModelInfo) -> tuple[WindowOptions, tuple[str, ...]]:
    """The options in `fields` as `model` takes them, and warnings about what it cannot follow. Raises InvalidOption."""
    prompt = fields.get("prompt", "").strip() or None
    if prompt is not None and len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidOption(f"The prompt has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are allowed.")
    wanted = fields.get("language", "")
    if model.languages:
        return WindowOptions(languages.resolve(wanted, model.languages), prompt), ()
    if wanted.strip().lower() in ("", "auto"):
        return WindowOptions(None, prompt), ()
    return WindowOptions(None, prompt), (
        f"The language {wanted.strip()[:40]!r} was not used: {model.name} always finds the language by itself.",
    )
