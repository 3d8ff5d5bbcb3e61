"""A decode worker's process: recordings in, PCM into a file, windows out. `python -m asr_service.audio.worker FD`.

Owns the job loop and the order of things within a job: PCM is in the file before the window over it is announced.
Memory does not grow with the recording. Whatever a file does, it is answered or costs this process alone.
"""

import errno
import os
import signal
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import FileIO
from typing import Any

from asr_service.audio import sandbox
from asr_service.audio.decode import Decoder, Pcm
from asr_service.audio.messages import Configure, Done, Failed, FromWorker, Job, Progress, Ready, WindowCut
from asr_service.audio.messages import decode_to_worker as unpack
from asr_service.audio.messages import encode as pack
from asr_service.audio.vad import VoiceDetector, load_model
from asr_service.audio.windows import Windower
from asr_service.domain import SAMPLE_RATE_HZ, AudioSummary
from asr_service.errors import AsrError, AudioTooLong, Unavailable, UnreadableAudio
from asr_service.ipc import BlockingChannel, ChannelClosed


class _Stopwatch:
    """Adds up the wall time of the pieces of one stage."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self.elapsed_s += time.perf_counter() - self._since


AllowCpu = Callable[[float], None]


def process(job: Job, audio: FileIO, pcm_file: FileIO, model: Any, allow_cpu: AllowCpu) -> Iterator[FromWorker]:
    """Do one job: yields its messages, the last of them Done. Raises AsrError, MemoryError, OSError."""
    allow_cpu(job.cpu_s_base)
    decoder = Decoder(audio, job.max_audio_s)
    detector, windower = VoiceDetector(model), Windower()
    decoding, detecting = _Stopwatch(), _Stopwatch()
    blocks = decoder.blocks()
    while True:
        with decoding:
            block = next(blocks, None)
            if block is not None:
                _write(pcm_file, block)
        if block is None:
            break
        decoded_s = decoder.decoded_samples / SAMPLE_RATE_HZ
        allow_cpu(job.cpu_s_base + job.cpu_s_per_audio_s * decoded_s)
        with detecting:
            windows = list(windower.feed(detector.feed(block)))
        yield from map(WindowCut, windows)
        if not windows:
            yield Progress(decoded_s)
    with detecting:
        windows = [*windower.feed(detector.finish()), *windower.finish(decoder.decoded_samples)]
    yield from map(WindowCut, windows)
    yield Done(
        AudioSummary(
            duration_s=decoder.decoded_samples / SAMPLE_RATE_HZ,
            warnings=tuple(decoder.warnings),
            decode_ms=decoding.elapsed_s * 1000,
            vad_ms=detecting.elapsed_s * 1000,
        )
    )


def _write(file: FileIO, block: Pcm) -> None:
    data = memoryview(block.data).cast("B")
    while data:
        data = data[file.write(data) :]


def answer(job: Job, files: list[int], model: Any, allow_cpu: AllowCpu | None = None) -> Iterator[FromWorker]:
    """Do one job, turning everything that can go wrong with a file into its last message. Closes the files.

    `allow_cpu` is told how many seconds of CPU the job may take in all, as far as is known; by default the kernel is.
    """
    allow_cpu = allow_cpu or sandbox.CpuBudget().grant
    with ExitStack() as stack:
        audio, pcm_file = (stack.enter_context(FileIO(fd, mode)) for fd, mode in zip(files, ("rb", "wb"), strict=True))
        try:
            yield from process(job, audio, pcm_file, model, allow_cpu)
        except AsrError as error:
            yield Failed(error.code, error.message)
        except MemoryError:
            yield Failed(UnreadableAudio.code, "Decoding the file takes more memory than is allowed.")
        except OSError as error:
            if error.errno == errno.EFBIG:
                yield Failed(AudioTooLong.code, "The recording is longer than is allowed.")
            elif error.errno == errno.ENOSPC:
                yield Failed(Unavailable.code, "The server has no room for the decoded audio at the moment.")
            else:
                yield Failed(UnreadableAudio.code, "The file is damaged: it cannot be decoded.")


def _warm_up(model: Any) -> None:
    """Decode a second of silence, so that the first recording does not wait for libraries to set themselves up."""
    audio, pcm = (os.memfd_create(name) for name in ("audio", "pcm"))
    with os.fdopen(os.dup(audio), "wb") as file, wave.open(file) as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE_HZ // 2)
        writer.writeframes(bytes(2 * SAMPLE_RATE_HZ))
    job = Job(max_audio_s=10, cpu_s_base=60, cpu_s_per_audio_s=0)
    *_, last = answer(job, [audio, pcm], model)
    if not isinstance(last, Done):
        raise RuntimeError(f"The decoder does not work: {last}")


def main(fd: int) -> None:
    """Serve the channel at `fd` until its other end closes."""
    # Ctrl-C reaches the whole process group; the parent decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = BlockingChannel(fd)
    try:
        configure = unpack(channel.receive()[0])
        if not isinstance(configure, Configure):
            raise TypeError(f"Expected Configure, not {configure}")
        model = load_model()
        _warm_up(model)
        unfiltered = sandbox.confine(configure.max_memory_bytes, configure.max_output_bytes)
        channel.send(pack(Ready(unfiltered)))
        while True:
            payload, files = channel.receive()
            job = unpack(payload)
            if not isinstance(job, Job):
                raise TypeError(f"Expected Job, not {job}")
            for message in answer(job, files, model):
                channel.send(pack(message))
            sandbox.release_memory()
    except ChannelClosed:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
