"""Whisper in the engine: encoder, slot caches and a batched decode step over transformers' weights.

Owns everything that is particular to Whisper: its prompt, language detection, suppressed tokens, cross-attention.
Checked token by token against transformers' greedy `generate` in float32.
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

from asr_service.domain import ModelInfo, Token, WindowOptions
from asr_service.models.base import Admitted, Features, NewSequence
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
    split_heads,
)
from asr_service.models.sampling import Rows
from asr_service.models.silence import SilentTail, ends_after
from asr_service.models.spelling import Spelling
from asr_service.models.whisper_layers import DecoderLayer, alignment_heads, encoder_layer
from asr_service.text.formats import is_unspaced

_ENGLISH = "en"
"""What models without language tokens speak, and a language of all others."""

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
        self._tokenizer = tokenizer
        self._spelling = Spelling(tokenizer)
        self._log_mel = LogMel(extractor)
        self.device, self.dtype = model.device, model.dtype
        self._heads = model.config.decoder_attention_heads
        self._read_generation_config(model)
        weights_bytes = self._build(model, slots, LinearFactory(int8=int8))
        self._info = ModelInfo(
            name=name,
            family="whisper",
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            languages=tuple(sorted(self._language_ids)) or (_ENGLISH,),
            slots=slots,
            memory_bytes=weights_bytes + self._self_cache.nbytes + self._cross_cache.nbytes,
            load_s=time.monotonic() - started,
            translates="translate" in self._task_ids,
        )

    def _read_generation_config(self, model: WhisperForConditionalGeneration) -> None:
        config = model.generation_config
        eos = config.eos_token_id
        self.stop_ids = frozenset(eos if isinstance(eos, list) else [eos])
        self._start_id = int(config.decoder_start_token_id)
        self._no_timestamps_id = config.no_timestamps_token_id
        self._previous_id = self._tokenizer.convert_tokens_to_ids("<|startofprev|>")
        multilingual = getattr(config, "is_multilingual", True)
        self._language_ids = {token.strip("<|>"): i for token, i in config.lang_to_id.items()} if multilingual else {}
        self._languages = {i: code for code, i in self._language_ids.items()}
        self._task_ids = config.task_to_id if multilingual else {}
        self._suppressed = list(config.suppress_tokens or [])
        self._suppressed_first = list(config.begin_suppress_tokens or [])
        self._alignment_heads = alignment_heads(model)

    def _build(self, model: WhisperForConditionalGeneration, slots: int, linear: LinearFactory) -> int:
        encoder, decoder, config = model.model.encoder, model.model.decoder, model.config
        self._encoder = AudioEncoder(
            (Conv1d.of(encoder.conv1), Conv1d.of(encoder.conv2)),
            [encoder_layer(layer, linear) for layer in encoder.layers],
            LayerNorm.of(encoder.layer_norm),
            heads=config.encoder_attention_heads,
            positions=encoder.embed_positions.weight.detach(),
        )
        self._embedding = decoder.embed_tokens.weight.detach()
        self._decoder_positions = decoder.embed_positions.weight.detach()
        self._decoder_layers = [DecoderLayer.of(layer, linear) for layer in decoder.layers]
        self._decoder_norm = LayerNorm.of(decoder.layer_norm)
        # Whisper's output layer has no bias, so the tokens that are never allowed cost nothing as a bias of -inf.
        bias = self._embedding.new_zeros(config.vocab_size)
        bias[self._suppressed] = float("-inf")
        self._head = linear.of(model.proj_out.weight, bias)
        self._source_length: int = config.max_source_positions
        self._max_length: int = config.max_target_positions
        head_dim = config.d_model // self._heads
        shape = (config.decoder_layers, slots, self._heads, head_dim)
        self._self_cache = SlotCache(*shape, self._max_length, self.dtype, self.device)
        self._cross_cache = SlotCache(*shape, self._source_length, self.dtype, self.device)
        self._rows = Rows(slots, self.device, self._spelling.encode)
        self._graphs = StepGraphs(self._step, self.device, slots)
        self._own = torch.zeros(slots, dtype=torch.long, device=self.device)
        self._own_lengths = [0] * slots
        self._silence: SilenceCache | None = None
        self._tails: list[SilentTail] = []
        if not self._exact:
            self._remember_silence(config.num_mel_bins)
        return linear.nbytes + int(self._embedding.nbytes)

    @torch.inference_mode()
    def _remember_silence(self, mel_bins: int) -> None:
        window = padding_window(mel_bins, 2 * self._source_length, self.dtype, self.device)
        self._silence = self._encoder.silence(window)
        for layer in self._decoder_layers:
            keys, values = (split_heads(part, self._heads)[0] for part in self._cross_kv(layer, self._silence.states))
            self._tails.append(SilentTail.of(keys, values))
        self._tail_weights = torch.stack([tail.log_counts for tail in self._tails])

    @staticmethod
    def _cross_kv(layer: DecoderLayer, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, frames, width] of encoder states [frames, width]."""
        keys, values = layer.cross_kv(states[None]).chunk(2, dim=-1)
        return keys, values

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
        return self._max_length - len(self._prompt(options, _ENGLISH))

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def details(self, row: int, tokens: Sequence[int]) -> tuple[Token, ...]:
        return self._spelling.details(tokens, self._rows.logprobs(row))

    @torch.inference_mode()
    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        rows = slice(first_row, first_row + len(batch))
        clips = [clip_of(s.features, exact=s.exact or self._exact, dtype=self.dtype, device=self.device) for s in batch]
        self._fit_cross_cache(first_row, [clip.own for clip in clips])
        for row, (clip, states) in enumerate(zip(clips, self._encoder(clips, self._silence), strict=True), first_row):
            self._own[row] = self._own_lengths[row] = clip.own
            for index, layer in enumerate(self._decoder_layers):
                keys, values = (split_heads(part, self._heads) for part in self._cross_kv(layer, states))
                self._cross_cache.write_prefix(index, slice(row, row + 1), keys, values)
        languages = self._detect_languages(rows, [sequence.options.language for sequence in batch])
        prompts = [self._prompt(s.options, language) for s, language in zip(batch, languages, strict=True)]
        self._rows.begin(first_row, [sequence.options for sequence in batch])
        tokens = self._prefill(rows, prompts)
        return [Admitted(language, token) for language, token in zip(languages, tokens, strict=True)]

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
        return self._head(self._decoder(rows, tokens, start, length, own, tail=tail)[:, 0])

    def spell(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text as the model would write it, and where in `text` the characters of each begin."""
        # Words begin with their space in Whisper's vocabulary, the first one too.
        lead = "" if is_unspaced(text[:1]) else " "
        spelt = self._tokenizer(lead + text, add_special_tokens=False, return_offsets_mapping=True)
        return list(spelt["input_ids"]), [max(0, begin - len(lead)) for begin, _ in spelt["offset_mapping"]]

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
        language = options.language if options.language in self._language_ids else self._language_of(heard)
        prompt = self._prompt(WindowOptions(language, task=options.task), language)
        weights, _ = self._read(heard, [*prompt, *tokens, min(self.stop_ids)])
        return weights.float().cpu().numpy(), len(prompt) - 1

    def _listen(self, features: Features) -> Heard:
        clip = clip_of(features, exact=self._exact, dtype=self.dtype, device=self.device)
        (states,) = self._encoder([clip], self._silence)
        parts = [[split_heads(p, self._heads)[0] for p in self._cross_kv(x, states)] for x in self._decoder_layers]
        return self._before_silence([(keys.transpose(1, 2), values) for keys, values in parts], clip.own)

    def _recall(self, row: int) -> Heard:
        own, transposed = self._own_lengths[row], self._cross_cache.transposed
        parts = [self._cross_cache.read(i, slice(row, row + 1), own) for i in range(len(self._decoder_layers))]
        layers = [(keys[0] if transposed else keys[0].transpose(1, 2), values[0]) for keys, values in parts]
        return self._before_silence(layers, own)

    def _before_silence(self, layers: list[tuple[Tensor, Tensor]], own: int) -> Heard:
        followed = self._silence is not None and own < self._source_length
        return Heard(layers, self._tails, self._tail_weights[:, :, ends_after(own)] if followed else None)

    def _language_of(self, heard: Heard) -> str | None:
        if not self._language_ids:
            return _ENGLISH
        _, hidden = self._read(heard, [self._start_id])
        return self._likeliest_languages(hidden)[0]

    def _read(self, heard: Heard, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """Run tokens through the decoder without its caches: weights [chosen heads, n, own] and states [n, width]."""
        count = len(tokens)
        x = (self._embedding[tokens] + self._decoder_positions[:count])[None]
        mask = causal_mask(torch.zeros(1, dtype=torch.long, device=self.device), count, count, self.dtype)
        seen: list[Tensor] = []

        def attend_cross(index: int, query: Tensor) -> Tensor:
            mixed, weights = heard.attend(index, query[0])
            seen.extend(weights[head] for of, head in self._alignment_heads if of == index)
            return mixed[None]

        attend_own = partial(attend, mask=mask, transposed=False)
        for index, layer in enumerate(self._decoder_layers):
            x = layer(x, self._heads, attend_own, partial(attend_cross, index))
        return torch.stack(seen), self._decoder_norm(x)[0]

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        self._self_cache.move(source, target, self._rows.lengths[source])
        self._cross_cache.move(source, target, self._own_lengths[source])
        self._own[target] = self._own[source]
        self._own_lengths[target] = self._own_lengths[source]
        self._rows.move(source, target)

    def _decoder(self, rows: slice, tokens: Tensor, start: Tensor, length: int, own: int, *, tail: bool) -> Tensor:
        """Run tokens [rows, n] at positions start [rows] … through the decoder.

        Writes their keys and values into the cache, and reads its first `length` positions, the first `own` encoder
        states of each row, and the silence after them if `tail`. Returns hidden states [rows, n, width].
        """
        count = tokens.shape[1]
        positions = start[:, None] + torch.arange(count, device=self.device)
        x = self._embedding[tokens] + self._decoder_positions[positions]
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

        for index, layer in enumerate(self._decoder_layers):
            x = layer(x, self._heads, partial(attend_own, index), partial(attend_cross, index))
        return self._decoder_norm(x)

    def _first_pass(self, rows: slice, tokens: Tensor, start: Tensor) -> Tensor:
        """Run tokens [rows, n] through the decoder at the beginning of their rows."""
        own = self._cross_length(rows)
        return self._decoder(rows, tokens, start, tokens.shape[1], own, tail=self._needs_tail(rows))

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

    def _prefill(self, rows: slice, prompts: list[list[int]]) -> list[int]:
        """Fill the caches of `rows` from position 0 and return each row's first new token."""
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        padded = [prompt + prompt[-1:] * (longest - len(prompt)) for prompt in prompts]
        start = self._rows.reset(rows)
        hidden = self._first_pass(rows, torch.tensor(padded, device=self.device), start)
        last = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
        logits = self._head(last)
        logits[:, self._suppressed_first] = float("-inf")
        return self._rows.advance(rows, logits, lengths)

    def _detect_languages(self, rows: slice, given: list[str | None]) -> list[str | None]:
        """The languages of rows whose language is not given: the likeliest language token after the start token."""
        if not self._language_ids:
            return [_ENGLISH for _ in given]
        if all(language is not None for language in given):
            return given
        start = torch.full((len(given), 1), self._start_id, device=self.device)
        hidden = self._first_pass(rows, start, self._rows.reset(rows))
        best = self._likeliest_languages(hidden[:, 0])
        return [found if language is None else language for found, language in zip(best, given, strict=True)]

    def _likeliest_languages(self, hidden: Tensor) -> list[str]:
        """The languages of states [rows, width] after the start token."""
        ids = torch.tensor(list(self._languages), device=self.device)
        return [self._languages[i] for i in ids[self._head(hidden)[:, ids].max(dim=-1).indices].tolist()]

    def _prompt(self, options: WindowOptions, language: str | None) -> list[int]:
        prompt = [self._start_id]
        if language is not None and self._language_ids:
            prompt += [self._language_ids[language], self._task_ids[options.task]]
        prompt.append(self._no_timestamps_id)
        if not options.prompt:
            return prompt
        # As in the reference: the text before this window, cut to its last half a context.
        text = self._tokenizer.encode(" " + options.prompt.strip(), add_special_tokens=False)
        return [self._previous_id, *text[-(self._max_length // 2 - 1) :], *prompt]
