"""The audio encoder that Whisper and GLM-ASR share, paying for speech and not for padding.

Both models were trained on windows padded to 30 s, without a mask, and go wrong when the padding is cut off. But the
padding is constant, so its keys and values in every layer hardly depend on the clip. `SilenceCache` holds them,
computed once from a window that is nothing but padding. A clip's own frames (its audio and a margin) attend to
themselves and to the cached padding at the positions after them; the decoder's cross-attention does the same with the
cached final states.

The padding's constant follows the clip's loudness: features are clamped at 8 decades below their maximum. Shifting all
features by the difference to one reference constant is the same as playing the clip louder or softer, so a single
cache serves every clip.

The cached keys of a layer are few, since those of silence lie close together (`models.silence`).

A clip that is encoded exactly has all frames of the window as its own, and no silence after them: the reference.

Live speech is encoded again and again while it grows. What lies more than a second before its end hardly changes any
more either: a draft takes the keys, values and states of those frames from the draft before (`Past`) and computes only
the rest (`models.drafts`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_service.models.base import Features
from asr_service.models.layers import Conv1d, LayerNorm, Linear, merge_heads, rotate, split_heads
from asr_service.models.silence import POSITION_MULTIPLE, SilentTail

_REFERENCE_PADDING = -0.6
"""The padding's constant for speech of usual loudness; recordings lie between -0.9 and -0.55."""

_MARGIN_FRAMES = 100
"""Feature frames of padding that a clip carries as its own (1 s), where speech and silence still mix. Half a second is
faster by a tenth and costs 0.3 points of word error rate (benchmarks/RESULTS.md)."""
_DRAFT_MARGIN_FRAMES = 50
"""Of a draft, which is soon replaced by another one."""

_STEM_LEAD = 2
"""Encoder frames to the left that the two convolutions reach back to."""

_SCORES_AT_ONCE = 400_000
"""Scores a head that a CPU computes in one piece. Plain matrix products over pieces of this size stay in its caches,
and take 25 ms for a whole window and layer of Whisper base in bfloat16, where the fused kernel takes 35 to 42."""


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    norm: LayerNorm
    qkv: Linear
    out: Linear
    mlp_norm: LayerNorm
    fc1: Linear
    fc2: Linear


@dataclass(frozen=True, slots=True)
class Past:
    """The first frames of a clip as they were when less of it had been heard.

    layers: keys and values [heads, frames, head_dim] of each; states: final ones [frames, width].
    """

    layers: list[tuple[Tensor, Tensor]]
    states: Tensor

    @property
    def frames(self) -> int:
        return len(self.states)

    @property
    def nbytes(self) -> int:
        return self.states.nbytes + sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def first(self, frames: int) -> "Past":
        """A copy of the first so many frames."""
        layers = [(keys[:, :frames].clone(), values[:, :frames].clone()) for keys, values in self.layers]
        return Past(layers, self.states[:frames].clone())


@dataclass(frozen=True, slots=True)
class Clip:
    """One window for the encoder: padded features [mel bins, frames] and how many encoder frames are its own.

    past: what need not be computed of them.
    """

    log_mel: Tensor
    own: int
    past: Past | None = None

    @property
    def known(self) -> int:
        """Frames that are taken from its past."""
        return 0 if self.past is None else self.past.frames


@dataclass(frozen=True, slots=True)
class SilenceCache:
    """What the padding looks like from inside: keys and values of each layer, and final states [positions, width]."""

    layers: list[SilentTail]
    states: Tensor


class AudioEncoder:
    """Convolutions, transformer layers and a final norm over packed clips of any length."""

    def __init__(
        self,
        convolutions: tuple[Conv1d, Conv1d],
        layers: Sequence[EncoderLayer],
        norm: LayerNorm,
        *,
        heads: int,
        positions: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """`positions` [frames, width] are added to the input; `rotary` are cos and sin [frames, rotated width]."""
        self._convolutions = convolutions
        self._layers = layers
        self._norm = norm
        self._heads = heads
        self._positions = positions
        self._rotary = rotary

    def __call__(self, clips: Sequence[Clip], silence: SilenceCache | None = None) -> list[Tensor]:
        """Final states [own, width] of each clip."""
        return self._run(clips, silence)

    def with_pasts(self, clips: Sequence[Clip], silence: SilenceCache | None) -> list[Past]:
        """All that is known of each clip now: its final states, and the keys and values of every layer."""
        layers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in clips]
        states = self._run(clips, silence, lambda clip, keys, values: layers[clip].append((keys, values)))
        return [Past(own, final) for own, final in zip(layers, states, strict=True)]

    def silence(self, padding: Tensor) -> SilenceCache:
        """The cache for a window [mel bins, frames] of nothing but padding."""
        layers: list[SilentTail] = []
        (states,) = self._run(
            [Clip(padding, padding.shape[1] // 2)],
            None,
            lambda clip, keys, values: layers.append(SilentTail.of(keys, values)),
        )
        return SilenceCache(layers, states)

    def _run(
        self,
        clips: Sequence[Clip],
        silence: SilenceCache | None,
        keep: Callable[[int, Tensor, Tensor], None] = lambda clip, keys, values: None,
    ) -> list[Tensor]:
        """Final states [own, width] of each clip. `keep` sees every layer's keys and values [heads, own, head_dim] of
        each clip, by its place.
        """
        lengths = [clip.own - clip.known for clip in clips]
        x = torch.cat([self._stem(clip) for clip in clips])
        rotary = None
        if self._rotary is not None:
            rotary = [torch.cat([table[clip.known : clip.own] for clip in clips]) for table in self._rotary]
        for index, layer in enumerate(self._layers):
            # [heads, packed frames, head_dim] each
            parts = layer.qkv(layer.norm(x)).chunk(3, dim=-1)
            query, keys, values = (split_heads(part[None], self._heads)[0] for part in parts)
            if rotary is not None:
                query, keys = rotate(query, *rotary), rotate(keys, *rotary)
            start, mixed = 0, []
            for place, (clip, n) in enumerate(zip(clips, lengths, strict=True)):
                span = slice(start, start + n)
                own = keys[:, span], values[:, span]
                if clip.past is not None:
                    before = clip.past.layers[index]
                    own = torch.cat([before[0], own[0]], dim=1), torch.cat([before[1], own[1]], dim=1)
                mixed.append(_attend(query[:, span], *own, None if silence is None else silence.layers[index]))
                keep(place, *own)
                start += n
            x = layer.out(merge_heads(torch.cat(mixed, dim=1)[None])[0], residual=x)
            x = layer.fc2(layer.fc1(layer.mlp_norm(x), "gelu"), residual=x)
        states = self._norm(x).split(lengths)
        return [
            own if clip.past is None else torch.cat([clip.past.states, own])
            for clip, own in zip(clips, states, strict=True)
        ]

    def _stem(self, clip: Clip) -> Tensor:
        """Convolutions of the frames that a clip has anew, and their positions: [own - known, width]."""
        # The first frames of what is cut out have no neighbours to their left: they are computed to be dropped.
        lead = min(_STEM_LEAD, clip.known)
        x = clip.log_mel[None, :, 2 * (clip.known - lead) : 2 * clip.own + 2]
        for convolution in self._convolutions:
            x = convolution(x)
        x = x[0, :, lead : lead + clip.own - clip.known].T
        return x if self._positions is None else x + self._positions[clip.known : clip.own]


def _attend(query: Tensor, keys: Tensor, values: Tensor, silence: SilentTail | None) -> Tensor:
    """Attention of scaled queries [heads, own, head_dim] over their clip and the silence behind it."""
    own = keys.shape[1]
    weights = None
    if silence is not None and own < silence.positions:
        weights = silence.weights_after(own)[:, None]
        keys = torch.cat([keys, silence.keys], dim=1)
        values = torch.cat([values, silence.values], dim=1)
    if query.device.type != "cpu":
        mask = None if weights is None else F.pad(weights, (own, 0))[None]
        return F.scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=mask, scale=1.0)[0]
    # Laid out once for all pieces; otherwise each product would do it anew.
    keys, values = keys.transpose(1, 2).contiguous(), values.contiguous()
    mixed = []
    for piece in query.split(max(1, _SCORES_AT_ONCE // keys.shape[2]), dim=1):
        scores = torch.matmul(piece, keys)
        if weights is not None:
            scores[:, :, own:] += weights
        mixed.append(torch.matmul(torch.softmax(scores, dim=-1), values))
    return torch.cat(mixed, dim=1)


def own_frames(features: Features, *, exact: bool, draft: bool = False) -> int:
    """Encoder frames (two feature frames each) that are computed for a window."""
    limit = int(features.log_mel.shape[1]) // 2
    if exact:
        return limit
    needed = -(-(features.frames + (_DRAFT_MARGIN_FRAMES if draft else _MARGIN_FRAMES)) // 2)
    return min(limit, -(-needed // POSITION_MULTIPLE) * POSITION_MULTIPLE)


def clip_of(features: Features, *, exact: bool, dtype: torch.dtype, device: torch.device, draft: bool = False) -> Clip:
    """A window as the encoder takes it. Unless exact, at the loudness that the silence cache was made for."""
    log_mel = torch.from_numpy(features.log_mel)
    own = own_frames(features, exact=exact, draft=draft)
    if not exact:
        log_mel = log_mel[:, : 2 * own + 2] + (_REFERENCE_PADDING - features.padding)
    return Clip(log_mel.to(device, dtype), own)


def padding_window(mel_bins: int, frames: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A window of nothing but padding at the reference loudness."""
    return torch.full((mel_bins, frames), _REFERENCE_PADDING, dtype=dtype, device=device)
