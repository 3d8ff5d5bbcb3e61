"""Untrusted audio of any common format to mono 16 kHz int16 PCM, block by block.

Owns everything about FFmpeg (through PyAV): which containers and codecs are let in, how channels become one, what
counts as unreadable and what as broken off. Knows nothing of speech. Reads the one file that it is given: no other
file, no URL and no playlist can be reached from here. Runs in a decode worker, since its input is hostile.
"""

import os
from collections.abc import Iterator
from io import FileIO

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph

from asr_service.audio import headers
from asr_service.domain import SAMPLE_RATE_HZ
from asr_service.errors import AudioTooLong, MissingAudio, UnreadableAudio

BLOCK_SAMPLES = 8 * SAMPLE_RATE_HZ
"""Samples per block: short recordings are one block, long ones show progress and stay small in memory."""

_DEMUXERS = ("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "ogg", "mov", "matroska", "aac", "amr")
_DECODERS = (
    *("aac", "aac_latm", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "gsm_ms", "mp1float", "mp2float", "mp3float"),
    *("libopencore_amrnb", "libopencore_amrwb", "libopus", "mp3", "opus", "speex", "vorbis"),
    *("adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8"),
    *("pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le"),
    *("pcm_s32be", "pcm_s32le"),
)
_OPTIONS = {
    "format_whitelist": ",".join(_DEMUXERS),
    # Also keeps FFmpeg from opening video decoders while it looks around.
    "codec_whitelist": ",".join(_DECODERS),
    "protocol_whitelist": "none",
    "max_streams": "64",
}
_WAV_OPTIONS = {"probesize": "4096"}
"""FFmpeg searches so many bytes of a WAV for hidden DTS: 5 ms at its default of 5 MB, 0.5 ms here."""

_IO_BUFFER_BYTES = 64 * 1024
_KNOW_THEIR_LENGTH = frozenset({"flac", "w64", "aiff", "au", "caf", "mov", "matroska"})
_LEAST_BYTES_PER_S = 100
_RATES_HZ = range(1_000, 768_001)
_MAX_CHANNELS = 64
_MAX_DAMAGED_PACKETS = 100

UNKNOWN_LENGTH = "The WAV header does not know how long the recording is; it was read to its end."
DAMAGED = "Parts of the recording are damaged; they were left out."

Pcm = npt.NDArray[np.int16]


class Decoder:
    """Decodes one recording. `warnings` and `decoded_samples` are complete once `blocks` has ended."""

    def __init__(self, file: FileIO, max_audio_s: float) -> None:
        self.warnings: list[str] = []
        self.decoded_samples = 0
        self._file = file
        self._fd = file.fileno()
        self._max_audio_s = max_audio_s
        self._size_bytes = os.fstat(self._fd).st_size
        self._good_packets = 0
        self._bad_packets = 0
        self._broken_off = False
        self._last_pts: int | None = None

    def blocks(self) -> Iterator[Pcm]:
        """PCM of the first audio stream in blocks of about 8 s.

        Raises MissingAudio, UnreadableAudio, and AudioTooLong as soon as more than `max_audio_s` have come out.
        """
        if self._size_bytes == 0:
            raise MissingAudio("The file is empty.")
        try:
            yield from self._blocks()
        except av.FFmpegError as error:
            _reraise_memory_error(error)
            raise UnreadableAudio("The file is damaged: it cannot be decoded.") from error

    def _blocks(self) -> Iterator[Pcm]:
        is_wav = headers.is_wav(self._fd)
        wav = headers.wav_data(self._fd, self._size_bytes) if is_wav else None
        with _open(self._file, _OPTIONS | _WAV_OPTIONS if is_wav else _OPTIONS) as container:
            stream = _audio_stream(container)
            declared_s = self._declared_s(container, stream)
            is_ogg, time_base = container.format.name == "ogg", stream.time_base
            # Before any work is done, unless the header cannot be true; what really comes out is counted as well.
            announced_s = _stream_s(stream) if is_ogg else declared_s
            if announced_s and self._max_audio_s < announced_s < self._size_bytes / _LEAST_BYTES_PER_S:
                raise self._too_long()
            yield from self._joined(self._pcm(container, stream))
        if self.decoded_samples == 0:
            raise UnreadableAudio(
                "The file is damaged: none of its sound could be decoded."
                if self._bad_packets
                else "The file has a header but no sound behind it."
            )
        if is_ogg and not headers.ogg_is_complete(self._fd, self._size_bytes):
            self._broken_off = True
        last_s = float(self._last_pts * time_base) if self._last_pts is not None and time_base is not None else 0.0
        self._warn(wav, declared_s, last_s)

    def _joined(self, pieces: Iterator[Pcm]) -> Iterator[Pcm]:
        waiting: list[Pcm] = []
        count = 0
        for piece in pieces:
            waiting.append(piece)
            count += len(piece)
            self.decoded_samples += len(piece)
            if self.decoded_samples > self._max_audio_s * SAMPLE_RATE_HZ:
                raise self._too_long()
            if count >= BLOCK_SAMPLES:
                yield np.concatenate(waiting)
                waiting, count = [], 0
        if waiting:
            yield np.concatenate(waiting)

    def _pcm(self, container: InputContainer, stream: AudioStream) -> Iterator[Pcm]:
        mixer: _Mixer | None = None
        for frame in self._frames(container, stream):
            if mixer is None or not mixer.takes(frame):
                # Chained Ogg files and broadcasts change their rate or channels midway.
                if mixer is not None:
                    yield from mixer.finish()
                mixer = _Mixer(frame)
            yield from mixer.mix(frame)
        if mixer is not None:
            yield from mixer.finish()

    def _frames(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                _reraise_memory_error(error)
                self._broken_off = True
                return
            if packet is None:
                return
            self._broken_off |= packet.is_corrupt
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                _reraise_memory_error(error)
                self._count_damage(error)
                continue
            if frames:
                self._good_packets += 1
                self._last_pts = packet.pts
                yield from frames

    def _count_damage(self, error: av.FFmpegError) -> None:
        self._bad_packets += 1
        if self._bad_packets > max(_MAX_DAMAGED_PACKETS, self._good_packets):
            raise UnreadableAudio("The file is damaged: most of its sound cannot be decoded.") from error

    def _declared_s(self, container: InputContainer, stream: AudioStream) -> float | None:
        """How long the header says that the sound is; None where FFmpeg only guesses."""
        name = container.format.name.split(",")[0]
        if name == "mp3":
            frames, rate_hz = headers.mp3_frames(self._fd), stream.codec_context.sample_rate
            return frames * (1152 if rate_hz >= 32_000 else 576) / rate_hz if frames and rate_hz else None
        if name not in _KNOW_THEIR_LENGTH:
            return None
        if (stream_s := _stream_s(stream)) is not None:
            return stream_s
        only_sound = not container.streams.video
        return container.duration / av.time_base if container.duration is not None and only_sound else None

    def _warn(self, wav: headers.WavData | None, declared_s: float | None, last_s: float) -> None:
        """Say what is missing. `last_s` is where the last piece that could be decoded stands in the recording."""
        decoded_s = self.decoded_samples / SAMPLE_RATE_HZ
        damaged, broken_off = self._bad_packets > 0, self._broken_off
        if wav is not None and wav.declared_bytes is None:
            self.warnings.append(UNKNOWN_LENGTH)
            broken_off = False
        elif wav is not None and wav.declared_bytes is not None and wav.declared_bytes > wav.available_bytes:
            declared_s = decoded_s * wav.declared_bytes / max(1, wav.available_bytes)
        tolerance_s = max(0.25, (declared_s or 0) * 0.01)
        if declared_s is not None and declared_s - decoded_s > tolerance_s:
            # What is missing may be missing in the middle.
            broken_off = last_s < declared_s - 2 * tolerance_s
            damaged |= not broken_off
        if broken_off:
            of_all = f" of {declared_s:.1f} s" if declared_s is not None and declared_s > decoded_s else ""
            self.warnings.append(f"The recording breaks off: {decoded_s:.1f} s{of_all} could be read.")
        if damaged:
            self.warnings.append(DAMAGED)

    def _too_long(self) -> AudioTooLong:
        return AudioTooLong(f"The recording is longer than the {self._max_audio_s:g} s that are allowed.")


class _Mixer:
    """Frames of one rate, format and channel layout to mono 16 kHz int16.

    All channels count alike. FFmpeg's own downmix would do so for stereo, but drops the LFE channel of 5.1 (where a
    six-track recorder may have put a microphone) and refuses layouts that it does not know.
    """

    def __init__(self, frame: AudioFrame) -> None:
        channels = frame.layout.nb_channels
        if frame.sample_rate not in _RATES_HZ:
            raise UnreadableAudio(f"The file claims a sample rate of {frame.sample_rate} Hz, which is no audio.")
        if not 1 <= channels <= _MAX_CHANNELS:
            raise UnreadableAudio(f"The file claims {channels} channels, which is no audio.")
        self._kind = _kind(frame)
        self._graph: Graph | None = None
        if self._kind[1:] != (1, SAMPLE_RATE_HZ) or frame.format.name not in ("s16", "s16p"):
            self._graph = _downmix(frame, channels)

    def takes(self, frame: AudioFrame) -> bool:
        return _kind(frame) == self._kind

    def mix(self, frame: AudioFrame) -> Iterator[Pcm]:
        if self._graph is None:
            yield frame.to_ndarray()[0]
            return
        # Gaps in the time stamps must not reach the filters.
        frame.pts = None
        self._graph.push(frame)
        yield from self._ready(self._graph)

    def finish(self) -> Iterator[Pcm]:
        """What the resampler still holds."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready(self._graph)

    def _ready(self, graph: Graph) -> Iterator[Pcm]:
        while True:
            try:
                frame = graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, AudioFrame)
            yield frame.to_ndarray()[0]


def _kind(frame: AudioFrame) -> tuple[str, int, int]:
    return frame.format.name, frame.layout.nb_channels, frame.sample_rate


def _downmix(frame: AudioFrame, channels: int) -> Graph:
    graph = Graph()
    # The sandbox lets no thread be started, and one such filter keeps no second one busy.
    graph.threads = 1
    nodes = [
        graph.add(
            "abuffer",
            sample_rate=str(frame.sample_rate),
            sample_fmt=frame.format.name,
            channel_layout=frame.layout.name,
            time_base=f"1/{frame.sample_rate}",
        )
    ]
    if channels > 1:
        # FFmpeg rounds weights to 1/32768 and wraps on overflow, so their sum must not exceed 1 after that either.
        weight = (32768 // channels) / 32768
        nodes.append(graph.add("pan", "mono|c0=" + "+".join(f"{weight:.9f}*c{i}" for i in range(channels))))
    nodes.append(graph.add("aformat", sample_rates=str(SAMPLE_RATE_HZ), sample_fmts="s16", channel_layouts="mono"))
    nodes.append(graph.add("abuffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


def _open(file: FileIO, options: dict[str, str]) -> InputContainer:
    file.seek(0)
    try:
        return av.open(
            file,
            "r",
            container_options=options,
            metadata_errors="ignore",
            buffer_size=_IO_BUFFER_BYTES,
            io_open=_refuse_other_files,
        )
    except av.FFmpegError as error:
        _reraise_memory_error(error)
        raise UnreadableAudio("The file is not audio in a known format, or is damaged beyond reading.") from error


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> FileIO:
    raise UnreadableAudio("The file refers to other files, which are not read.")


def _audio_stream(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise UnreadableAudio("The file has no sound in it.")
    stream = container.streams.audio[0]
    context = stream.codec_context
    # FFmpeg applies its own list while probing only; the decoder that will really run is checked here.
    if context is None or context.codec.name not in _DECODERS:
        raise UnreadableAudio("The sound in the file is encrypted or in a codec that is not supported.")
    context.thread_count = 1
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    return stream


def _stream_s(stream: AudioStream) -> float | None:
    if stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def _reraise_memory_error(error: av.FFmpegError) -> None:
    """FFmpeg's own "out of memory" is about our limits, not about damage."""
    if isinstance(error, MemoryError):
        raise error
