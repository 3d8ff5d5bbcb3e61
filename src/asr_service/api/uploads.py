"""How the body of a request becomes an open file and a few text fields.

Owns the size limit, the two shapes of an upload (multipart form, raw body) and the temporary file, which has no name
and so vanishes with its last descriptor however the request ends. Must not know what is in the file.
"""

import asyncio
import contextlib
import errno
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from asr_service.errors import InvalidInput, InvalidOption, MissingAudio, Unavailable, UnsupportedUpload, UploadTooLarge

FILE_FIELD = "file"
_BUFFER_BYTES = 1024 * 1024
_MAX_FIELD_BYTES = 64 * 1024
_RAW_TYPES = ("audio/", "video/")
_OCTETS = "application/octet-stream"
_HOW = (
    "send a multipart/form-data form with a part named 'file', or the audio itself with a Content-Type of audio/*, "
    "video/*, application/octet-stream or none"
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A received body: an open file, at its start, and the text fields that came with it."""

    file: IO[bytes]
    size_bytes: int
    fields: Mapping[str, str]


@contextlib.asynccontextmanager
async def receive(request: Request, *, max_bytes: int, fields: Collection[str]) -> AsyncIterator[Upload]:
    """Receive a body of at most `max_bytes`. `fields` names what may come with it, in the form or in the query.

    Raises UploadTooLarge (before reading when the size is declared, else at the byte), MissingAudio, InvalidOption for
    fields that are unknown or given twice, UnsupportedUpload, InvalidInput for a broken form, and starlette's
    ClientDisconnect when the client leaves.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedUpload("A Content-Encoding is not supported: send the file as it is.")
    texts: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        _add_field(texts, name, value, fields)
    content_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    kind = content_type.decode("latin-1").lower()
    with tempfile.TemporaryFile(prefix="asr-upload-") as file:
        spool = _Spool(file)
        if kind == "multipart/form-data":
            form = _Form(spool, parameters.get(b"boundary", b""), texts, fields)
            await _pump(request, form.feed, spool, max_bytes)
            form.finish()
        elif kind in ("", _OCTETS) or kind.startswith(_RAW_TYPES):
            await _pump(request, spool.add, spool, max_bytes)
        else:
            raise UnsupportedUpload(f"A body of type {kind[:80]!r} cannot be transcribed: {_HOW}.")
        if spool.size_bytes == 0:
            raise MissingAudio(f"The upload holds no audio: {_HOW}.")
        file.seek(0)
        yield Upload(file, spool.size_bytes, texts)


class _Spool:
    """Collects bytes and writes them to a file in large pieces."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._buffer = bytearray()
        self.size_bytes = 0

    def add(self, data: bytes | memoryview) -> None:
        self._buffer += data
        self.size_bytes += len(data)

    async def drain(self, *, last: bool = False) -> None:
        """Write what has piled up. A full buffer in a thread, since a busy disk may block; a small rest at once."""
        if len(self._buffer) >= _BUFFER_BYTES:
            buffer, self._buffer = self._buffer, bytearray()
            await asyncio.to_thread(self._write, buffer)
        elif last:
            self._write(self._buffer)

    def _write(self, data: bytearray) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unavailable("The service has no room left for uploads.", retry_after_s=30) from error
            raise


async def _pump(request: Request, take: Callable[[bytes], None], spool: _Spool, max_bytes: int) -> None:
    received = 0
    async with contextlib.aclosing(request.stream()) as body:
        async for chunk in body:
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            take(chunk)
            await spool.drain()
    await spool.drain(last=True)


class _Form:
    """A multipart form as it arrives: the file goes to the spool, short texts are kept."""

    def __init__(self, spool: _Spool, boundary: bytes, texts: dict[str, str], fields: Collection[str]) -> None:
        if not boundary:
            raise InvalidInput("The Content-Type of the form has no boundary.")
        self._spool = spool
        self._texts = texts
        self._fields = fields
        self._header = (bytearray(), bytearray())
        self._name = ""
        self._disposition = b""
        self._value: bytearray | None = None
        self._has_file = False
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
        if not self._has_file:
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
            if self._has_file:
                raise InvalidOption(f"The form has more than one part named {FILE_FIELD!r}: send one file a request.")
            self._has_file = True
            self._value = None
        else:
            # Refused as soon as it is seen, so that a misspelt field does not cost the upload of the file after it.
            _check_name(self._texts, self._name, self._fields)
            self._value = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._value is None:
            self._spool.add(piece)
            return
        self._value += piece
        if len(self._value) > _MAX_FIELD_BYTES:
            raise InvalidOption(f"The field {self._name!r} is longer than {_MAX_FIELD_BYTES} bytes.")

    def _on_part_end(self) -> None:
        if self._value is None:
            return
        try:
            value = self._value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidOption(f"The field {self._name!r} is not UTF-8 text.") from error
        _add_field(self._texts, self._name, value, self._fields)

    def _on_end(self) -> None:
        self._complete = True


@contextlib.contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise InvalidInput(f"The form cannot be read: {error}.") from error


def _check_name(texts: Mapping[str, str], name: str, fields: Collection[str]) -> None:
    if name not in fields:
        raise InvalidOption(f"There is no option {name[:80]!r}; the options are {', '.join(sorted(fields))}.")
    if name in texts:
        raise InvalidOption(f"The option {name!r} is given twice.")


def _add_field(texts: dict[str, str], name: str, value: str, fields: Collection[str]) -> None:
    _check_name(texts, name, fields)
    texts[name] = value


def _too_large(max_bytes: int) -> UploadTooLarge:
    return UploadTooLarge(
        f"The upload is larger than {max_bytes / 2**20:g} MiB. Compress the audio (Opus, MP3) or cut it into pieces."
    )
