"""Names and codes of languages: what callers may write, and the code that a model knows.

Owns the spelling of languages. Knows nothing of any particular model: callers pass the codes that theirs takes.
"""

import difflib
from collections.abc import Sequence

from asr_service.errors import InvalidOption

# English names for the codes of ISO 639-1 (639-3 where there is no shorter one) that speech models use.
_NAMES = {
    "af": "afrikaans", "am": "amharic", "ar": "arabic", "as": "assamese", "az": "azerbaijani", "ba": "bashkir",
    "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bo": "tibetan", "br": "breton", "bs": "bosnian",
    "ca": "catalan", "cs": "czech", "cy": "welsh", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fo": "faroese",
    "fr": "french", "gl": "galician", "gu": "gujarati", "ha": "hausa", "haw": "hawaiian", "he": "hebrew",
    "hi": "hindi", "hr": "croatian", "ht": "haitian creole", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "is": "icelandic", "it": "italian", "ja": "japanese", "jv": "javanese", "ka": "georgian",
    "kk": "kazakh", "km": "khmer", "kn": "kannada", "ko": "korean", "la": "latin", "lb": "luxembourgish",
    "ln": "lingala", "lo": "lao", "lt": "lithuanian", "lv": "latvian", "mg": "malagasy", "mi": "maori",
    "mk": "macedonian", "ml": "malayalam", "mn": "mongolian", "mr": "marathi", "ms": "malay", "mt": "maltese",
    "my": "burmese", "ne": "nepali", "nl": "dutch", "nn": "nynorsk", "no": "norwegian", "oc": "occitan",
    "pa": "punjabi", "pl": "polish", "ps": "pashto", "pt": "portuguese", "ro": "romanian", "ru": "russian",
    "sa": "sanskrit", "sd": "sindhi", "si": "sinhala", "sk": "slovak", "sl": "slovenian", "sn": "shona",
    "so": "somali", "sq": "albanian", "sr": "serbian", "su": "sundanese", "sv": "swedish", "sw": "swahili",
    "ta": "tamil", "te": "telugu", "tg": "tajik", "th": "thai", "tk": "turkmen", "tl": "tagalog", "tr": "turkish",
    "tt": "tatar", "uk": "ukrainian", "ur": "urdu", "uz": "uzbek", "vi": "vietnamese", "yi": "yiddish",
    "yo": "yoruba", "yue": "cantonese", "zh": "chinese",
}  # fmt: skip
CODES = tuple(_NAMES)
"""Every code that has a name here."""
_OTHER_NAMES = {
    "castilian": "es", "farsi": "fa", "filipino": "tl", "flemish": "nl", "haitian": "ht", "mandarin": "zh",
    "mandarin chinese": "zh", "moldavian": "ro", "moldovan": "ro", "myanmar": "my", "sinhalese": "si",
    "slovene": "sl", "valencian": "ca",
}  # fmt: skip
# Codes for the same language. Whisper writes "jw" for Javanese, which ISO 639-1 has withdrawn.
_SAME = {"cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "ji": "yi", "jv": "jw", "jw": "jv", "nb": "no"}


def name(code: str) -> str:
    """The English name of a language, in small letters; a code without one stands for itself."""
    return _NAMES.get(code) or _NAMES.get(_SAME.get(code, "")) or code


def resolve(wanted: str, known: Sequence[str]) -> str | None:
    """The code in `known` for a language written as a code, a regional tag ("zh-CN") or an English name.

    None for "auto" and for nothing at all: the model detects the language then. Raises InvalidOption.
    """
    asked = wanted.strip().lower().replace("_", "-")
    if asked in ("", "auto"):
        return None
    base = asked.split("-")[0]
    by_name = {name: code for code, name in _NAMES.items()} | _OTHER_NAMES
    for code in (asked, by_name.get(asked.replace("-", " ")), base):
        for candidate in (code, _SAME.get(code or "")):
            if candidate in known:
                return candidate
    spelled = [name for name, code in by_name.items() if code in known or _SAME.get(code) in known]
    near = difflib.get_close_matches(asked, [*known, *spelled], n=1, cutoff=0.75)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(known))}."
    raise InvalidOption(f"The model does not know the language {wanted.strip()[:40]!r}; {hint}")
