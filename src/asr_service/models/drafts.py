"""What drafts of live speech leave for the next one of the same window: the encoder's work on their older frames.

Owns which frames are old enough, and how much is remembered for how many sessions. Knows no model beyond its encoder.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from asr_service.models.base import NewSequence
from asr_service.models.encoder import AudioEncoder, Clip, Past, SilenceCache
from asr_service.models.silence import POSITION_MULTIPLE

_FRESH_FRAMES = 50
"""Encoder frames before the end of the audio (1 s) that are computed again, now that more is heard after them."""

_MAX_BYTES = 128 * 1024 * 1024
"""Whisper base takes 0.6 MB a second of speech."""

_SAME_MEL = 0.05
"""Features of the same audio differ only by the loudness that they are shifted to: by no more than this."""


@dataclass(frozen=True, slots=True)
class _Memory:
    past: Past
    log_mel: Tensor
    """The features that it was computed from."""


class DraftMemory:
    """Encodes windows, and remembers those that still grow by their request, which has one of them."""

    def __init__(self, encoder: AudioEncoder, silence: SilenceCache | None, max_bytes: int = _MAX_BYTES) -> None:
        """Without `silence` every window is computed whole, and nothing is remembered."""
        self._encoder = encoder
        self._silence = silence
        self._max_bytes = max_bytes
        self._memories: OrderedDict[str, _Memory] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(memory.past.nbytes + memory.log_mel.nbytes for memory in self._memories.values())

    def encode(self, batch: Sequence[NewSequence], clips: Sequence[Clip]) -> list[Tensor]:
        """States of each clip. Growing speech goes on from what is remembered of it."""
        if self._silence is None or not any(sequence.speech_of for sequence in batch):
            return self._encoder(clips, self._silence)
        recalled = [
            clip if sequence.speech_of is None else self.recall(sequence.speech_of, clip)
            for sequence, clip in zip(batch, clips, strict=True)
        ]
        pasts = self._encoder.with_pasts(recalled, self._silence)
        for sequence, clip, past in zip(batch, clips, pasts, strict=True):
            if sequence.speech_of is not None:
                self.remember(sequence.speech_of, clip, sequence.features.frames // 2, past)
        return [past.states for past in pasts]

    def recall(self, request_id: str, clip: Clip) -> Clip:
        """The clip with what is remembered of its beginning, if that was the same."""
        memory = self._memories.get(request_id)
        if memory is None or memory.past.frames >= clip.own:
            return clip
        before = memory.log_mel
        if before.shape[1] > clip.log_mel.shape[1]:
            return clip
        same = (clip.log_mel[:, : before.shape[1]] - before).abs().max() <= _SAME_MEL
        return replace(clip, past=memory.past) if same else clip

    def remember(self, request_id: str, clip: Clip, heard_frames: int, past: Past) -> None:
        """Keep what is known of a draft's clip, of which the first `heard_frames` encoder frames are audio."""
        old = (heard_frames - _FRESH_FRAMES) // POSITION_MULTIPLE * POSITION_MULTIPLE
        self.forget(request_id)
        if old > 0:
            self._memories[request_id] = _Memory(past.first(old), clip.log_mel[:, : 2 * old].clone())
        while self.nbytes > self._max_bytes:
            self._memories.popitem(last=False)

    def forget(self, request_id: str) -> None:
        """The window is complete, or another one has begun."""
        self._memories.pop(request_id, None)
