"""The command `asr-service live`.

Owns its options, what Ctrl-C does, and exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from asr_service.domain import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from asr_service.live.address import Address, address
from asr_service.live.client import talk
from asr_service.live.dialogue import Dialogue, Wishes, Words
from asr_service.live.failures import LiveFailed
from asr_service.live.pace import Pieces, paced
from asr_service.live.show import Format, Show, show_for

_STDIN = Path("-")


def main(arguments: Sequence[str]) -> None:
    """Run the command with `arguments`, without loading any other command of the service."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(live)
    alone(args=list(arguments), prog_name="asr-service live")


def live(
    file: Annotated[
        Path | None,
        typer.Argument(help="A recording, or - for raw PCM on standard input; the microphone if not given."),
    ] = None,
    url: Annotated[str, typer.Option(help="Address of the service: http, https, ws or wss.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str, typer.Option(envvar="LIVE_API_KEY", help="API key or token; others can read it in the process list.")
    ] = "",
    api_key_file: Annotated[Path | None, typer.Option(help="File that holds the API key or token.")] = None,
    language: Annotated[str, typer.Option(help="Language of the speech; detected if not given.")] = "",
    prompt: Annotated[str, typer.Option(help="Text that tells the model what is spoken about.")] = "",
    speed: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="How fast a recording is sent: 1 at its own pace, 0 as fast as possible."),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(help="Samples a second on standard input, 16-bit mono: 16000 or 24000.")
    ] = None,
    output: Annotated[
        Format, typer.Option("--format", help="Text, a line of JSON for each utterance, or subtitles.")
    ] = Format.TXT,
    words: Annotated[bool, typer.Option("--words", help="Times of words, with --format json.")] = False,
) -> None:
    """Transcribe the microphone, a recording or a pipe while it is heard, with a service that runs."""
    if speed is not None and file in (None, _STDIN):
        _misused("--speed is for recordings: the microphone and standard input have a pace of their own.")
    if rate is not None and (file != _STDIN or rate not in (16_000, 24_000)):
        _misused("--rate is 16000 or 24000, and for raw PCM on standard input, which is named -.")
    if words and output is Format.TXT:
        _misused("--words goes with --format json: lines of text have no room for times.")
    if file == _STDIN and sys.stdin.isatty():
        _misused("Standard input is a terminal: - expects raw PCM from another program.")
    asked = _address(url, api_key, api_key_file)
    wishes = Wishes(
        rate_hz=rate or SAMPLE_RATE_HZ,
        language=language,
        prompt=prompt,
        drafts=output is Format.TXT and sys.stdout.isatty(),
        words=Words.NEEDED if words else Words.WELCOME if output in (Format.SRT, Format.VTT) else Words.NO,
    )
    try:
        lost = asyncio.run(_live(asked, wishes, file, 1.0 if speed is None else speed, output))
    except LiveFailed as failed:
        _fail(str(failed))
    except asyncio.CancelledError:
        _fail("Ended at once: the last words have no text.")
    if lost:
        raise typer.Exit(1)


async def _live(asked: Address, wishes: Wishes, file: Path | None, speed: float, output: Format) -> int:
    """Run a session. Returns how many utterances got no text. Raises LiveFailed; CancelledError when ended by hand."""
    # FFmpeg and NumPy, which a service that is started by the same command must not load.
    from asr_service.live import sources

    with contextlib.ExitStack() as stack:
        recording = None
        pieces: Pieces
        if file is None:
            pieces = sources.microphone(sources.recorders(wishes.rate_hz), wishes.rate_hz)
        elif file == _STDIN:
            pieces = sources.piped(sys.stdin.fileno(), wishes.rate_hz)
        else:
            recording = stack.enter_context(contextlib.closing(sources.Recording(file)))
            pieces = paced(recording.pieces(), speed * wishes.rate_hz * BYTES_PER_SAMPLE)
        ended = stack.enter_context(_by_hand())
        show: Show = stack.enter_context(contextlib.closing(show_for(output)))
        await talk(asked, Dialogue(wishes), pieces, show, ended.stop, on_ready=ended.may_wait)
        for warning in recording.warnings if recording is not None else ():
            show.note(warning)
        return show.lost


class _ByHand:
    """What Ctrl-C (or SIGTERM) does: the first ends what is heard, the next one everything.

    Before the service is ready nothing was heard, so that the first ends everything, too.
    """

    def __init__(self, task: "asyncio.Task[object]") -> None:
        self.stop = asyncio.Event()
        self._task = task
        self._waits = False

    def may_wait(self) -> None:
        self._waits = True

    def signalled(self) -> None:
        if self.stop.is_set() or not self._waits:
            self._task.cancel()
        self.stop.set()


@contextlib.contextmanager
def _by_hand() -> Iterator[_ByHand]:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    by_hand = _ByHand(task)
    kinds: tuple[Literal[signal.Signals.SIGINT], Literal[signal.Signals.SIGTERM]] = (signal.SIGINT, signal.SIGTERM)
    for kind in kinds:
        loop.add_signal_handler(kind, by_hand.signalled)
    try:
        yield by_hand
    finally:
        for kind in kinds:
            loop.remove_signal_handler(kind)


def _address(url: str, api_key: str, api_key_file: Path | None) -> Address:
    if api_key_file is not None:
        try:
            api_key = api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            _misused(f"{api_key_file}: {reason}.")
    try:
        return address(url, api_key)
    except ValueError as error:
        _misused(str(error))


def _misused(sentence: str) -> NoReturn:
    _fail(sentence, code=2)


def _fail(sentence: str, code: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(code) from None
