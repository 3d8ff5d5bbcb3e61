"""Where the audio of a live session comes from: a recording, standard input, or the microphone.

Owns decoding and the programs that record. Sends nothing, and knows no pace but that of its sources.
"""

import asyncio
import contextlib
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from asr_service.audio.decode import Decoder, Pcm
from asr_service.domain import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from asr_service.errors import AsrError
from asr_service.live.failures import LiveFailed, printable
from asr_service.live.pace import Pieces

PIECE_S = 0.1

_RECORDERS = (
    ("pw-record", "--raw --rate={rate} --channels=1 --format=s16 -"),
    ("parec", "--raw --rate={rate} --channels=1 --format=s16le --latency-msec=100"),
    ("arecord", "-q -t raw -r {rate} -c 1 -f S16_LE"),
)
"""Of PipeWire, PulseAudio and ALSA; the first that records is taken."""
_RECORDER_ENDS_S = 2.0
_SHOWN_BYTES = 300


class Recording:
    """A file of any format, as 16 kHz PCM in pieces of 0.1 s. Raises LiveFailed if it cannot be read at all.

    It is decoded in this process, a few seconds at a time, which takes milliseconds. Call `close` at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = FileIO(path, "r")
        except OSError as error:
            raise LiveFailed(f"{path}: {error.strerror}.") from None
        self._decoder = Decoder(self._file, math.inf)
        self._blocks = self._decoder.blocks()
        try:
            # So that nothing begins with a file that cannot be read.
            self._first = self._next()
        except LiveFailed:
            self.close()
            raise

    @property
    def warnings(self) -> list[str]:
        """Sentences on what is missing; complete once all pieces were read."""
        return [f"{self._path}: {warning}" for warning in self._decoder.warnings]

    async def pieces(self) -> Pieces:
        """The audio. Raises LiveFailed when it turns out to be damaged."""
        size, rest = _piece_bytes(SAMPLE_RATE_HZ), b""
        for block in self._samples():
            rest += block.tobytes()
            whole = len(rest) - len(rest) % size
            for start in range(0, whole, size):
                yield rest[start : start + size]
            rest = rest[whole:]
        if rest:
            yield rest

    def close(self) -> None:
        self._blocks.close()  # type: ignore[attr-defined]  # a generator, though declared as an iterator
        self._file.close()

    def _samples(self) -> Iterator[Pcm]:
        block = self._first
        while block is not None:
            yield block
            block = self._next()

    def _next(self) -> Pcm | None:
        try:
            return next(self._blocks, None)
        except AsrError as error:
            raise LiveFailed(f"{self._path}: {error.message}") from None
        except OSError as error:
            raise LiveFailed(f"{self._path}: {error.strerror or error}.") from None


async def piped(descriptor: int, rate_hz: int) -> Pieces:
    """16-bit mono PCM of a pipe or file, as it comes. Half a sample at its end is left out."""
    file = FileIO(os.dup(descriptor), "r")
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        # A file is always ready, and the event loop watches none.
        with file:
            while piece := file.read(_piece_bytes(rate_hz)):
                yield piece[: len(piece) - len(piece) % BYTES_PER_SAMPLE]
        return
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        async with contextlib.aclosing(_whole_samples(reader, rate_hz)) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        transport.close()


def recorders(rate_hz: int, path: str | None = None) -> list[list[str]]:
    """The commands of programs on `path` that record. Raises LiveFailed if there is none."""
    found = [
        [program, *arguments.format(rate=rate_hz).split()]
        for name, arguments in _RECORDERS
        if (program := shutil.which(name, path=path)) is not None
    ]
    if not found:
        names = ", ".join(name for name, _ in _RECORDERS)
        raise LiveFailed(
            f"There is no program that records (one of {names}): install pipewire-bin, pulseaudio-utils or alsa-utils, "
            "or give a file."
        )
    return found


async def microphone(commands: list[list[str]], rate_hz: int) -> Pieces:
    """What the first of `commands` records that records anything. Raises LiveFailed when none does, or it breaks."""
    complaint = ""
    for command in commands:
        heard = False
        with tempfile.TemporaryFile() as said:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
                # Ctrl-C is for this process, which ends the other when it has heard enough.
                start_new_session=True,
            )
            assert process.stdout is not None
            try:
                async with contextlib.aclosing(_whole_samples(process.stdout, rate_hz)) as pieces:
                    async for piece in pieces:
                        heard = True
                        yield piece
                status = await process.wait()
            finally:
                await _ended(process)
            said.seek(0)
            last = said.read()[-_SHOWN_BYTES:].decode(errors="replace").strip().rpartition("\n")[2]
        complaint = f"{Path(command[0]).name} has stopped recording (status {status}): {printable(last) or 'no reason'}"
        if heard and status == 0:
            return
        if heard:
            break
    raise LiveFailed(f"{complaint.rstrip('.')}.")


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a recorder that still records."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_RECORDER_ENDS_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _whole_samples(reader: asyncio.StreamReader, rate_hz: int) -> Pieces:
    rest = b""
    while data := await reader.read(_piece_bytes(rate_hz)):
        data = rest + data
        whole = len(data) - len(data) % BYTES_PER_SAMPLE
        rest = data[whole:]
        if whole:
            yield data[:whole]


def _piece_bytes(rate_hz: int) -> int:
    return round(rate_hz * PIECE_S) * BYTES_PER_SAMPLE
