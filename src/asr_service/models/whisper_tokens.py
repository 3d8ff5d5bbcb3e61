"""Whisper's vocabulary: its prompt, its languages, its text, and the times that it can write between the words.

Owns what single tokens mean and which are never said. Knows no weights, no cache and no row.
"""

from collections.abc import Sequence

from transformers import GenerationConfig, WhisperTokenizerFast

from asr_service.domain import Part, WindowOptions
from asr_service.models.timestamps import Timestamps
from asr_service.text.formats import is_unspaced

ENGLISH = "en"
"""What models without language tokens speak, and a language of all others."""


class WhisperTokens:
    """What one checkpoint's tokens mean, by its tokenizer and its generation configuration."""

    def __init__(self, tokenizer: WhisperTokenizerFast, config: GenerationConfig, max_length: int) -> None:
        """`max_length`: positions of the decoder."""
        self._tokenizer = tokenizer
        self._max_length = max_length
        eos = config.eos_token_id
        self.stop_ids = frozenset(eos if isinstance(eos, list) else [eos])
        self.start_id = int(config.decoder_start_token_id)
        self.timestamps = Timestamps.of(config, end_id=min(self.stop_ids))
        self.no_speech_id = self.timestamps.none_id - 1
        multilingual = getattr(config, "is_multilingual", True)
        self.language_ids = {token.strip("<|>"): i for token, i in config.lang_to_id.items()} if multilingual else {}
        self.suppressed = list(config.suppress_tokens or [])
        self.suppressed_first = list(config.begin_suppress_tokens or [])
        self._previous_id = tokenizer.convert_tokens_to_ids("<|startofprev|>")
        self._task_ids = config.task_to_id if multilingual else {}

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted(self.language_ids)) or (ENGLISH,)

    @property
    def translates(self) -> bool:
        return "translate" in self._task_ids

    def prompt(self, options: WindowOptions, language: str | None) -> list[int]:
        """What the decoder reads before it writes, what the text begins with included."""
        prompt = [self.start_id]
        if language is not None and self.language_ids:
            prompt += [self.language_ids[language], self._task_ids[options.task]]
        if not options.timestamps:
            prompt.append(self.timestamps.none_id)
        prompt += self.prefix(options)
        if not options.prompt:
            return prompt
        # As in the reference: the text before this window, cut to its last half a context.
        text = self._tokenizer.encode(" " + options.prompt.strip(), add_special_tokens=False)
        return [self._previous_id, *text[-(self._max_length // 2 - 1) :], *prompt]

    def prefix(self, options: WindowOptions) -> list[int]:
        """The tokens of what the text begins with."""
        return self.spell(options.prefix)[0] if options.prefix else []

    def guess(self, options: WindowOptions) -> list[int]:
        """The tokens with which the text may go on from its prefix; none where they cannot be told apart."""
        prefix, whole = self.prefix(options), self.spell(options.prefix + options.guess)[0] if options.guess else []
        return whole[len(prefix) :] if whole[: len(prefix)] == prefix else []

    def room(self, options: WindowOptions) -> int:
        """How many tokens fit behind the prompt."""
        return self._max_length - len(self.prompt(options, ENGLISH))

    def text(self, tokens: Sequence[int]) -> str:
        words = [token for token in tokens if token < self.timestamps.first_id]
        return str(self._tokenizer.decode(words, skip_special_tokens=True)).strip()

    def parts(self, tokens: Sequence[int], duration_s: float) -> tuple[Part, ...]:
        """A window's text, cut where the model has written times."""
        spans = self.timestamps.split(tokens, duration_s)
        return tuple(Part(s.start_s, s.end_s, self.text(tokens[s.first : s.last]), s.last - s.first) for s in spans)

    def spell(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text as the model would write it, and where in `text` the characters of each begin."""
        # Words begin with their space in Whisper's vocabulary, the first one too.
        lead = "" if is_unspaced(text[:1]) else " "
        spelt = self._tokenizer(lead + text, add_special_tokens=False, return_offsets_mapping=True)
        return list(spelt["input_ids"]), [max(0, begin - len(lead)) for begin, _ in spelt["offset_mapping"]]
