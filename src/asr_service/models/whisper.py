"""Whisper in the engine: encoder, slot caches and a batched decode step over transformers' weights.

Owns what is particular to Whisper's steps: cross-attention, language detection, the beginning of a text. Checked token
by token against transformers' greedy `generate` in float32.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

from asr_service.domain import ModelInfo, Part, Token, WindowOptions
from asr_service.models.base import Admitted, Features, NewSequence
from asr_service.models.drafts import DraftMemory
from asr_service.models.encoder import (
    AudioEncoder,
    SilenceCache,
    clip_of,
    own_frames,
    padding_window,
)
from asr_service.models.features import LogMel
from asr_service.models.graphs import StepGraphs
from asr_service.models.heard import Heard
from asr_service.models.layers import (
    Conv1d,
    LayerNorm,
    LinearFactory,
    SlotCache,
    attend,
    attend_with_tail,
    causal_mask,
)
from asr_service.models.sampling import Rows
from asr_service.models.silence import SilentTail, ends_after
from asr_service.models.spelling import Spelling
from asr_service.models.whisper_layers import Decoder, alignment_heads, encoder_layer
from asr_service.models.whisper_tokens import ENGLISH, WhisperTokens

_CROSS_SIZES = (192, 256, 320, 384, 448, 512, 640, 768, 1024, 1280, 1500)
"""Lengths that the cache of encoder states takes on a CPU."""

_LENGTH_BUCKET = 32
"""Self-attention reads cached positions in multiples of this, so that shapes repeat from step to step."""


class WhisperRunner:
    """Implements `models.base.Runner`. The model passed in may be dropped afterwards: its weights are repacked."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: WhisperTokenizerFast,
        extractor: WhisperFeatureExtractor,
        *,
        name: str,
        slots: int,
        started: float,
        exact_encoder: bool = False,
        int8: bool = False,
    ) -> None:
        """`exact_encoder` computes every window whole instead of relying on the silence-state cache; `int8`
        quantizes the linear layers.
        """
        self._exact = exact_encoder
        self._tokens = WhisperTokens(tokenizer, model.generation_config, model.config.max_target_positions)
        self.stop_ids = self._tokens.stop_ids
        self._spelling = Spelling(tokenizer)
        self._log_mel = LogMel(extractor)
        self.device, self.dtype = model.device, model.dtype
        self._alignment_heads = alignment_heads(model)
        weights_bytes = self._build(model, slots, LinearFactory(int8=int8))
        self._info = ModelInfo(
            name=name,
            family="whisper",
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            languages=self._tokens.languages,
            slots=slots,
            memory_bytes=weights_bytes + self._self_cache.nbytes + self._cross_cache.nbytes,
            load_s=time.monotonic() - started,
            translates=self._tokens.translates,
            timestamps=True,
        )

    def _build(self, model: WhisperForConditionalGeneration, slots: int, linear: LinearFactory) -> int:
        encoder, config, heads = model.model.encoder, model.config, model.config.decoder_attention_heads
        self._encoder = AudioEncoder(
            (Conv1d.of(encoder.conv1), Conv1d.of(encoder.conv2)),
            [encoder_layer(layer, linear) for layer in encoder.layers],
            LayerNorm.of(encoder.layer_norm),
            heads=config.encoder_attention_heads,
            positions=encoder.embed_positions.weight.detach(),
        )
        self._decoder = Decoder(model.model.decoder, heads, linear)
        # Whisper's output layer has no bias, so the tokens that are never allowed cost nothing as a bias of -inf.
        bias = self._decoder.embedding.new_zeros(config.vocab_size)
        bias[self._tokens.suppressed] = float("-inf")
        self._head = linear.of(model.proj_out.weight, bias)
        self._unsaid = sorted({*self._tokens.suppressed, self._tokens.no_speech_id})
        self._unsaid_head = model.proj_out.weight.detach()[self._unsaid]
        self._source_length: int = config.max_source_positions
        self._max_length: int = config.max_target_positions
        shape = (config.decoder_layers, slots, heads, config.d_model // heads)
        self._self_cache = SlotCache(*shape, self._max_length, self.dtype, self.device)
        self._cross_cache = SlotCache(*shape, self._source_length, self.dtype, self.device)
        self._rows = Rows(slots, self.device, self._spelling.encode, self._tokens.timestamps)
        self._graphs = StepGraphs(self._step, self.device, slots)
        self._own = torch.zeros(slots, dtype=torch.long, device=self.device)
        self._own_lengths = [0] * slots
        self._silence: SilenceCache | None = None
        self._tails: list[SilentTail] = []
        if not self._exact:
            self._remember_silence(config.num_mel_bins)
        self._drafts = DraftMemory(self._encoder, self._silence)
        return linear.nbytes + int(self._decoder.embedding.nbytes)

    @torch.inference_mode()
    def _remember_silence(self, mel_bins: int) -> None:
        window = padding_window(mel_bins, 2 * self._source_length, self.dtype, self.device)
        self._silence = self._encoder.silence(window)
        for index in range(len(self._decoder.layers)):
            keys, values = self._decoder.cross(index, self._silence.states)
            self._tails.append(SilentTail.of(keys[0], values[0]))
        self._tail_weights = torch.stack([tail.log_counts for tail in self._tails])

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def frames_per_window(self) -> int:
        return self._log_mel.max_frames

    def features(self, pcm: NDArray[np.int16]) -> Features:
        return self._log_mel(pcm)

    def encoder_frames(self, features: Features, *, exact: bool = False) -> int:
        return 2 * own_frames(features, exact=exact or self._exact)

    def max_new_tokens(self, options: WindowOptions) -> int:
        return self._tokens.room(options)

    def prefix(self, options: WindowOptions) -> list[int]:
        return self._tokens.prefix(options)

    def text(self, tokens: Sequence[int]) -> str:
        return self._tokens.text(tokens)

    def parts(self, tokens: Sequence[int], duration_s: float) -> tuple[Part, ...]:
        return self._tokens.parts(tokens, duration_s)

    def details(self, row: int, tokens: Sequence[int]) -> tuple[Token, ...]:
        return self._spelling.details(tokens, self._rows.logprobs(row))

    @torch.inference_mode()
    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        rows = slice(first_row, first_row + len(batch))
        clips = [
            clip_of(s.features, exact=s.exact or self._exact, dtype=self.dtype, device=self.device, draft=s.draft)
            for s in batch
        ]
        self._fit_cross_cache(first_row, [clip.own for clip in clips])
        for row, (clip, states) in enumerate(zip(clips, self._drafts.encode(batch, clips), strict=True), first_row):
            self._own[row] = self._own_lengths[row] = clip.own
            for index in range(len(self._decoder.layers)):
                self._cross_cache.write_prefix(index, slice(row, row + 1), *self._decoder.cross(index, states))
        languages = self._detect_languages(rows, [sequence.options.language for sequence in batch])
        options = [sequence.options for sequence in batch]
        prompts = [self._tokens.prompt(own, language) for own, language in zip(options, languages, strict=True)]
        self._rows.begin(first_row, options)
        tokens, no_speech = self._prefill(rows, prompts, options)
        return [
            Admitted(language, tuple(own), no_speech.get(i))
            for i, (language, own) in enumerate(zip(languages, tokens, strict=True))
        ]

    @torch.inference_mode()
    def decode(self, first_row: int, count: int) -> list[int]:
        rows = slice(first_row, first_row + count)
        length = self._graphs.size(self._rows.read_length(rows, _LENGTH_BUCKET, self._max_length), self._max_length)
        wide = self._graphs.rows(rows)
        self._rows.rest(slice(rows.stop, wide.stop))
        own = self._cross_length(wide)
        return self._rows.advance(rows, self._graphs(rows, length, own, self._needs_tail(wide)), [1] * count)

    def _fit_cross_cache(self, used_rows: int, new: list[int]) -> None:
        """Make room for encoder states of `new` lengths beside those in use, and no more, on a CPU.

        On a GPU the cache keeps its size: graphs are bound to its memory, and its kernels read part of it as fast.
        """
        if self.device.type == "cpu":
            longest = max(self._own_lengths[:used_rows] + new)
            size = next((size for size in _CROSS_SIZES if longest <= size), self._source_length)
            self._cross_cache.resize(min(size, self._source_length), used_rows)

    def _step(self, rows: slice, length: int, own: int, tail: bool) -> Tensor:
        """Logits [rows, vocabulary] after each row's last token."""
        tokens, start = self._rows.tokens[rows, None], self._rows.positions[rows]
        return self._head(self._run(rows, tokens, start, length, own, tail=tail)[:, 0])

    def spell(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text as the model would write it, and where in `text` the characters of each begin."""
        return self._tokens.spell(text)

    @torch.inference_mode()
    def attention(
        self, source: int | Features, tokens: Sequence[int], options: WindowOptions
    ) -> tuple[NDArray[np.float32], int]:
        """Where the alignment heads look in a window while the decoder reads a finished text, in one pass.

        source: the row that holds the window, or its features, which are then encoded; no row is written. tokens: at
        most `max_new_tokens` - 1. Returns weights [heads, positions, the window's own encoder frames], of the prompt,
        the tokens and the end token, and the position whose next token is the text's first.
        """
        heard = self._recall(source) if isinstance(source, int) else self._listen(source)
        language = options.language if options.language in self._tokens.language_ids else self._language_of(heard)
        prompt = self._tokens.prompt(WindowOptions(language, task=options.task), language)
        weights, _ = self._read(heard, [*prompt, *tokens, min(self.stop_ids)])
        return weights.float().cpu().numpy(), len(prompt) - 1

    def _listen(self, features: Features) -> Heard:
        clip = clip_of(features, exact=self._exact, dtype=self.dtype, device=self.device)
        (states,) = self._encoder([clip], self._silence)
        parts = [self._decoder.cross(index, states) for index in range(len(self._decoder.layers))]
        return self._before_silence([(keys[0].transpose(1, 2), values[0]) for keys, values in parts], clip.own)

    def _recall(self, row: int) -> Heard:
        own, transposed = self._own_lengths[row], self._cross_cache.transposed
        parts = [self._cross_cache.read(i, slice(row, row + 1), own) for i in range(len(self._decoder.layers))]
        layers = [(keys[0] if transposed else keys[0].transpose(1, 2), values[0]) for keys, values in parts]
        return self._before_silence(layers, own)

    def _before_silence(self, layers: list[tuple[Tensor, Tensor]], own: int) -> Heard:
        followed = self._silence is not None and own < self._source_length
        return Heard(layers, self._tails, self._tail_weights[:, :, ends_after(own)] if followed else None)

    def _language_of(self, heard: Heard) -> str | None:
        if not self._tokens.language_ids:
            return ENGLISH
        _, hidden = self._read(heard, [self._tokens.start_id])
        return self._likeliest_languages(hidden)[0]

    def _read(self, heard: Heard, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """Run tokens through the decoder without its caches: weights [chosen heads, n, own] and states [n, width]."""
        count = len(tokens)
        mask = causal_mask(torch.zeros(1, dtype=torch.long, device=self.device), count, count, self.dtype)
        seen: list[Tensor] = []

        def attend_own(index: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return attend(query, keys, values, mask, transposed=False)

        def attend_cross(index: int, query: Tensor) -> Tensor:
            mixed, weights = heard.attend(index, query[0])
            seen.extend(weights[head] for of, head in self._alignment_heads if of == index)
            return mixed[None]

        ids, positions = torch.tensor(tokens, device=self.device), torch.arange(count, device=self.device)
        states = self._decoder(ids[None], positions[None], attend_own, attend_cross)
        return torch.stack(seen), states[0]

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        self._self_cache.move(source, target, self._rows.lengths[source])
        self._cross_cache.move(source, target, self._own_lengths[source])
        self._own[target] = self._own[source]
        self._own_lengths[target] = self._own_lengths[source]
        self._rows.move(source, target)

    def _run(self, rows: slice, tokens: Tensor, start: Tensor, length: int, own: int, *, tail: bool) -> Tensor:
        """Run tokens [rows, n] at positions start [rows] … through the decoder.

        Writes their keys and values into the cache, and reads its first `length` positions, the first `own` encoder
        states of each row, and the silence after them if `tail`. Returns hidden states [rows, n, width].
        """
        count = tokens.shape[1]
        mask = causal_mask(start, count, length, self.dtype)
        transposed = self._self_cache.transposed
        own_mask = self._own_mask(rows, own) if tail else None
        tail_biases = self._tail_biases(rows) if tail else None

        def attend_own(index: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            if count == 1:
                self._self_cache.append(index, rows, start, keys, values)
            else:
                self._self_cache.write_prefix(index, rows, keys, values)
            return attend(query, *self._self_cache.read(index, rows, length), mask, transposed=transposed)

        def attend_cross(index: int, query: Tensor) -> Tensor:
            cross = self._cross_cache.read(index, rows, own)
            if own_mask is None or tail_biases is None:
                return attend(query, *cross, None, transposed=transposed)
            silence = self._tails[index].keys, self._tails[index].values, tail_biases[index]
            return attend_with_tail(query, *cross, own_mask, *silence, transposed=transposed)

        positions = start[:, None] + torch.arange(count, device=self.device)
        return self._decoder(tokens, positions, attend_own, attend_cross)

    def _first_pass(self, rows: slice, tokens: Tensor, start: Tensor) -> Tensor:
        """Run tokens [rows, n] through the decoder at the beginning of their rows."""
        own = self._cross_length(rows)
        return self._run(rows, tokens, start, tokens.shape[1], own, tail=self._needs_tail(rows))

    def _cross_length(self, rows: slice) -> int:
        """How many encoder states of each row a step reads; masks hide those that a row does not have."""
        if self.device.type == "cpu":
            return self._cross_cache.length
        return self._graphs.size(max(self._own_lengths[rows]), self._source_length)

    def _needs_tail(self, rows: slice) -> bool:
        """False where every row has the whole window as its own, and always for the exact encoder."""
        return self._silence is not None and min(self._own_lengths[rows]) < self._source_length

    def _own_mask(self, rows: slice, own: int) -> Tensor:
        """Additive mask [rows, 1, 1, own] over each row's own encoder states."""
        hidden = torch.arange(own, device=self.device) >= self._own[rows, None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, float("-inf"))
        return mask[:, None, None]

    def _tail_biases(self, rows: slice) -> Tensor:
        """What the silence after each row's own states weighs: [layers, heads, rows, clusters]."""
        return self._tail_weights[:, :, ends_after(self._own[rows])]

    def _prefill(
        self, rows: slice, prompts: list[list[int]], options: list[WindowOptions]
    ) -> tuple[list[list[int]], dict[int, float]]:
        """Fill the caches of `rows` from position 0. Returns each row's first new tokens and, by their places among
        them, how likely it is that nobody speaks in those whose options ask for that.

        What rows are guessed to say is read together with their prompts, which shows how much of it they would have
        said themselves.
        """
        lengths = [len(prompt) for prompt in prompts]
        guesses = [
            self._tokens.guess(own) if self._rows.is_plain(row) else [] for row, own in enumerate(options, rows.start)
        ]
        read = [prompt + guess for prompt, guess in zip(prompts, guesses, strict=True)]
        longest = max(map(len, read))
        padded = [tokens + tokens[-1:] * (longest - len(tokens)) for tokens in read]
        start = self._rows.reset(rows)
        hidden = self._first_pass(rows, torch.tensor(padded, device=self.device), start)
        # Of each row, the states from which its next token follows, and each after a token that is guessed.
        counts = [1 + len(guess) for guess in guesses]
        firsts = [sum(counts[:i]) for i in range(len(counts))]
        places = [length - 1 + i for length, count in zip(lengths, counts, strict=True) for i in range(count)]
        owners = [i for i, count in enumerate(counts) for _ in range(count)]
        last = hidden[torch.tensor(owners), torch.tensor(places)]
        doubtful = [i for i, own in enumerate(options) if own.no_speech]
        # The text before a window may itself spell a start token.
        starts = [lengths[i] - 1 - prompts[i][::-1].index(self._tokens.start_id) for i in doubtful]
        begun = hidden[torch.tensor(doubtful, dtype=torch.long), torch.tensor(starts, dtype=torch.long)]
        logits, logits_begun = self._head(torch.cat([last, begun])).split([len(last), len(begun)])
        no_speech = dict(zip(doubtful, self._no_speech(begun, logits_begun), strict=True)) if doubtful else {}
        # A text that goes on may end at once.
        new = torch.tensor(
            [first for first, own in zip(firsts, options, strict=True) if not own.prefix], dtype=torch.long
        )
        logits[new[:, None], self._tokens.suppressed_first] = float("-inf")
        right = _right(guesses, logits, firsts)
        chosen = [first + count for first, count in zip(firsts, right, strict=True)]
        consumed = [length + count for length, count in zip(lengths, right, strict=True)]
        next_tokens = self._rows.advance(rows, logits[chosen] if any(guesses) else logits, consumed)
        tokens = [[*guess[:n], token] for guess, n, token in zip(guesses, right, next_tokens, strict=True)]
        return tokens, no_speech

    def _no_speech(self, hidden: Tensor, logits: Tensor) -> list[float]:
        """What the model gives to its token for no speech, from states [rows, width] after the start token and their
        logits, which are changed.
        """
        # It is among the tokens that the head leaves out, since they are never said.
        logits[:, self._unsaid] = hidden @ self._unsaid_head.T
        probs: list[float] = torch.softmax(logits.float(), dim=-1)[:, self._tokens.no_speech_id].tolist()
        return probs

    def _detect_languages(self, rows: slice, given: list[str | None]) -> list[str | None]:
        """The languages of rows whose language is not given: the likeliest language token after the start token."""
        if not self._tokens.language_ids:
            return [ENGLISH for _ in given]
        if all(language is not None for language in given):
            return given
        start = torch.full((len(given), 1), self._tokens.start_id, device=self.device)
        hidden = self._first_pass(rows, start, self._rows.reset(rows))
        best = self._likeliest_languages(hidden[:, 0])
        return [found if language is None else language for found, language in zip(best, given, strict=True)]

    def _likeliest_languages(self, hidden: Tensor) -> list[str]:
        """The languages of states [rows, width] after the start token."""
        codes = list(self._tokens.language_ids)
        ids = torch.tensor(list(self._tokens.language_ids.values()), device=self.device)
        return [codes[i] for i in self._head(hidden)[:, ids].max(dim=-1).indices.tolist()]


def _right(guesses: list[list[int]], logits: Tensor, firsts: list[int]) -> list[int]:
    """How many tokens at the beginning of each guess are the likeliest, from logits [all rows' places, vocabulary]."""
    if not any(guesses):
        return [0] * len(guesses)
    best: list[int] = logits.max(dim=-1).indices.tolist()
    right = []
    for guess, first in zip(guesses, firsts, strict=True):
        said = best[first : first + len(guess)]
        right.append(next((i for i, (a, b) in enumerate(zip(guess, said, strict=True)) if a != b), len(guess)))
    return right
