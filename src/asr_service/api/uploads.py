"""How the body of a request becomes an open file and a few text fields.

Owns the size limit, the two shapes of an upload (multipart form, raw body) and the temporary file, which has no name
and so vanishes with its last descriptor however the request ends. Must not know what is in the file.
"""

import asyncio
import contextlib
import errno
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from asr_service.api.deadline import Pace
from asr_service.errors import (
    InvalidInput,
    InvalidOption,
    MissingAudio,
    Unavailable,
    UnsupportedUpload,
    UploadTooLarge,
)

FILE_FIELD = "file"
_BUFFER_BYTES = 1024 * 1024
_MAX_FIELD_BYTES = 64 * 1024
_MAX_FIELDS_CHARACTERS = 256 * 1024
_MAX_REPEATS = 256
_MAX_NAME_CHARACTERS = 200
_RAW_TYPES = ("audio/", "video/")
_OCTETS = "application/octet-stream"
_HOW = (
    "send a multipart/form-data form with a part named 'file', or the audio itself with a Content-Type of audio/*, "
    "video/*, application/octet-stream or none"
)


@dataclass(frozen=True, slots=True)
class Recording:
    """A received file: open, at its start, with the name that the client gave it, if any."""

    file: IO[bytes]
    size_bytes: int
    name: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A received body: at least one file, and the text fields that came with it.

    `lists` holds the fields that may be repeated, whose names end in [].
    """

    recordings: tuple[Recording, ...]
    fields: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]

    @property
    def size_bytes(self) -> int:
        return sum(recording.size_bytes for recording in self.recordings)


@contextlib.asynccontextmanager
async def receive(
    request: Request, *, max_bytes: int, timeout_s: float, fields: Collection[str], max_files: int = 1
) -> AsyncIterator[Upload]:
    """Receive a body of at most `max_bytes` with at most `max_files` files. `fields` names what may come with it, in
    the form or in the query; those that end in [] may be repeated. Of the body, at least 1 KiB/s must come within any
    `timeout_s`.

    Raises UploadTooLarge (before reading when the size is declared, else at the byte), MissingAudio, InvalidOption for
    fields that are unknown or given twice, UnsupportedUpload, InvalidInput for a broken form, UploadTimeout, and
    starlette's ClientDisconnect when the client leaves.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedUpload("A Content-Encoding is not supported: send the file as it is.")
    given = _Fields(fields)
    for name, value in request.query_params.multi_items():
        given.add(name, value)
    content_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    kind = content_type.decode("latin-1").lower()
    with contextlib.ExitStack() as files:
        spool = _Spool(files)
        if kind == "multipart/form-data":
            form = _Form(spool, parameters.get(b"boundary", b""), given, max_files)
            await _pump(request, form.feed, spool, max_bytes, timeout_s)
            form.finish()
        elif kind in ("", _OCTETS) or kind.startswith(_RAW_TYPES):
            spool.begin("")
            await _pump(request, spool.add, spool, max_bytes, timeout_s)
        else:
            raise UnsupportedUpload(f"A body of type {kind[:80]!r} cannot be transcribed: {_HOW}.")
        yield Upload(spool.recordings(), given.texts, given.lists)


class _Fields:
    """Text fields as they come in: only known ones, only once unless their names end in [], and not without end."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._characters = 0
        self.texts: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self.check(name)
        self._characters += len(value)
        if self._characters > _MAX_FIELDS_CHARACTERS:
            raise InvalidOption(f"The options have more than {_MAX_FIELDS_CHARACTERS} characters together.")
        if name.endswith("[]"):
            self.lists.setdefault(name, []).append(value)
        else:
            self.texts[name] = value

    def check(self, name: str) -> None:
        """Refuse a field as soon as its name is seen, so that a misspelt one does not cost the upload after it."""
        if name not in self._known:
            options = ", ".join(sorted(self._known))
            raise InvalidOption(f"There is no option {name[:80]!r}; the options are {options}.", option=name[:80])
        if name in self.texts:
            raise InvalidOption(f"The option {name!r} is given twice.", option=name)
        if len(self.lists.get(name, ())) == _MAX_REPEATS:
            raise InvalidOption(f"The option {name!r} is given more than {_MAX_REPEATS} times.", option=name)


class _Part:
    """One file on its way to the disk."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file = file
        self.name = name
        self.buffer = bytearray()
        self.size_bytes = 0


class _Spool:
    """Collects the bytes of files, one file after the other, and writes them in large pieces."""

    def __init__(self, files: contextlib.ExitStack) -> None:
        """`files` closes what is opened here; a file without a name vanishes with that."""
        self._files = files
        self._parts: list[_Part] = []

    @property
    def count(self) -> int:
        return len(self._parts)

    def begin(self, name: str) -> None:
        """The bytes that follow belong to a new file."""
        file = tempfile.TemporaryFile(prefix="asr-upload-")  # noqa: SIM115 - `files` closes it
        self._parts.append(_Part(self._files.enter_context(file), name))

    def add(self, data: bytes | memoryview) -> None:
        part = self._parts[-1]
        part.buffer += data
        part.size_bytes += len(data)

    async def drain(self, *, last: bool = False) -> None:
        """Write what has piled up. A full buffer in a thread, since a busy disk may block; small rests at once."""
        for part in self._parts:
            if len(part.buffer) >= _BUFFER_BYTES:
                buffer, part.buffer = part.buffer, bytearray()
                await asyncio.to_thread(_write, part.file, buffer)
            elif part.buffer and (last or part is not self._parts[-1]):
                _write(part.file, part.buffer)
                part.buffer = bytearray()

    def recordings(self) -> tuple[Recording, ...]:
        """The files, each at its start. Raises MissingAudio when one is empty."""
        for part in self._parts:
            if part.size_bytes == 0:
                name = f" {part.name!r}" if part.name and len(self._parts) > 1 else ""
                raise MissingAudio(f"The upload{name} holds no audio: {_HOW}.")
            part.file.seek(0)
        return tuple(Recording(part.file, part.size_bytes, part.name) for part in self._parts)


def _write(file: IO[bytes], data: bytearray) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("The service has no room left for uploads.", retry_after_s=30) from error
        raise


async def _pump(
    request: Request, take: Callable[[bytes], None], spool: _Spool, max_bytes: int, timeout_s: float
) -> None:
    received = 0
    pace = Pace(timeout_s)
    async with contextlib.aclosing(request.stream()) as body:
        while (chunk := await pace.next(body)) is not None:
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            take(chunk)
            await spool.drain()
    await spool.drain(last=True)


class _Form:
    """A multipart form as it arrives: files go to the spool, short texts are kept."""

    def __init__(self, spool: _Spool, boundary: bytes, given: _Fields, max_files: int) -> None:
        if not boundary:
            raise InvalidInput("The Content-Type of the form has no boundary.")
        self._spool = spool
        self._given = given
        self._max_files = max_files
        self._header = (bytearray(), bytearray())
        self._name = ""
        self._disposition = b""
        self._value: bytearray | None = None
        self._complete = False
        with _form_errors():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )

    def feed(self, data: bytes) -> None:
        with _form_errors():
            self._parser.write(data)

    def finish(self) -> None:
        if not self._complete:
            raise InvalidInput("The form ends before its closing boundary.")
        if not self._spool.count:
            raise MissingAudio(f"The form has no part named {FILE_FIELD!r}.")

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._header = (bytearray(), bytearray())

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == FILE_FIELD:
            if self._spool.count == self._max_files:
                allowed = "one file" if self._max_files == 1 else f"at most {self._max_files} files"
                raise InvalidOption(
                    f"The form has too many parts named {FILE_FIELD!r}: send {allowed} a request.", option=FILE_FIELD
                )
            self._spool.begin(options.get(b"filename", b"").decode("utf-8", "replace")[:_MAX_NAME_CHARACTERS])
            self._value = None
        else:
            self._given.check(self._name)
            self._value = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._value is None:
            self._spool.add(piece)
            return
        self._value += piece
        if len(self._value) > _MAX_FIELD_BYTES:
            raise InvalidOption(f"The field {self._name!r} is longer than {_MAX_FIELD_BYTES} bytes.", option=self._name)

    def _on_part_end(self) -> None:
        if self._value is None:
            return
        try:
            value = self._value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidOption(f"The field {self._name!r} is not UTF-8 text.", option=self._name) from error
        self._given.add(self._name, value)

    def _on_end(self) -> None:
        self._complete = True


@contextlib.contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise InvalidInput(f"The form cannot be read: {error}.") from error


def _too_large(max_bytes: int) -> UploadTooLarge:
    return UploadTooLarge(
        f"The upload is larger than {max_bytes / 2**20:g} MiB. Compress the audio (Opus, MP3) or cut it into pieces."
    )
