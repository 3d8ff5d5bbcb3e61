"""The command line: `asr-service serve`, `transcribe`, `evaluate`, `keys`, `probe`, `live`. Only here do all meet.

Owns exit codes: 0 done, 1 failed (no model, port taken, a file not transcribed, no service to ask), 2 wrong settings
or usage.
"""

import asyncio
import contextlib
import errno
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NoReturn

import structlog
import typer

import asr_service
from asr_service.api.schemas import TranscriptReply
from asr_service.audio.listener import Listener
from asr_service.audio.pool import AudioLimits, DecodePool
from asr_service.auth import AuthUnusable
from asr_service.auth import command as auth_command
from asr_service.batch import Outcome, ProgressBar, transcribe_files
from asr_service.engine.client import EngineClient
from asr_service.engine.messages import EngineConfig
from asr_service.errors import AsrError, ModelUnavailable
from asr_service.live import command as live_command
from asr_service.observability import logs, traces
from asr_service.observability.metrics import Metrics
from asr_service.options import parse_options
from asr_service.probe import command as probe_command
from asr_service.server import Server, configuration
from asr_service.service import Transcriber
from asr_service.settings import ServiceManager, Settings, SettingsError, decoder_environment, engine_environment
from asr_service.systemd import Notifier
from asr_service.text import subtitles

_BACKLOG = 2048


class Format(StrEnum):
    """How a transcript is printed."""

    TXT = "txt"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


_log = structlog.stdlib.get_logger("asr_service")

cli = typer.Typer(
    help="Speech recognition on a continuously batching engine. Settings are read from ASR_... variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


cli.add_typer(auth_command.app, name="keys")
cli.command()(probe_command.probe)
cli.command()(live_command.live)


def main() -> None:
    """The entry point of the `asr-service` command."""
    cli()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asr-service {asr_service.__version__}")
        raise typer.Exit


@cli.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""
    context.obj = lambda: _load_settings().auth.keys_file


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (ASR_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (ASR_PORT).")] = None,
) -> None:
    """Serve the HTTP API."""
    settings = _load_settings(host=host, port=port)
    logs.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
    try:
        tracer = _tracer(settings)
    except traces.TracesUnavailable as unavailable:
        _fail(str(unavailable), code=2)
    with _listen(settings.host, settings.port) as listener:
        _log.info("settings", **settings.changed())
        try:
            error = asyncio.run(_serve(settings, listener, tracer))
        except AuthUnusable as unusable:
            _fail(str(unusable), code=2)
    if isinstance(error, ModelUnavailable):
        _fail(error.message)
    if error is not None:
        raise error


@cli.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Recordings: WAV, MP3, FLAC, OGG, M4A, MP4, WebM and more.")],
    output: Annotated[
        Format, typer.Option("--format", help="Text, all that is known as a JSON line per file, or subtitles.")
    ] = Format.TXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    language: Annotated[str, typer.Option(help="Language of the speech; detected if not given.")] = "",
    prompt: Annotated[str, typer.Option(help="Text that tells the model about the recordings.")] = "",
) -> None:
    """Transcribe files without a server, several at a time."""
    if as_json and output not in (Format.TXT, Format.JSON):
        _fail(f"--json and --format {output} ask for different things: leave one of them out.", code=2)
    if output in subtitles.WRITERS and len(files) > 1:
        _fail(f"--format {output} takes one recording at a time: run it once for each.", code=2)
    settings = _load_settings()
    logs.configure("warning", "console")
    fields = {"language": language, "prompt": prompt}
    try:
        failed = asyncio.run(_transcribe(settings, files, fields, Format.JSON if as_json else output))
    except AsrError as error:
        _fail(error.message)
    if failed:
        raise typer.Exit(1)


@cli.command()
def evaluate(
    manifest: Annotated[
        str, typer.Argument(help="TSV or JSON Lines with audio, reference and language, or hf:DATASET.")
    ],
    compare: Annotated[str, typer.Option(help="Run again with these settings: NAME=VALUE[,NAME=VALUE].")] = "",
    language: Annotated[str, typer.Option(help="Language of recordings for which the manifest names none.")] = "",
    detect_language: Annotated[
        bool, typer.Option("--detect-language", help="Do not tell the model the languages.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="Text that tells the model about the recordings.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first so many recordings only.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write a JSON line per recording to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure word or character error rates on recordings with references, and the speed."""
    from asr_service.evaluation import EvaluationError, command
    from asr_service.evaluation.run import Plan

    def configuration(label: str, settings: Settings) -> command.Configuration:
        plan = Plan(settings.max_batch, settings.windows_in_flight, tell_language=not detect_language, prompt=prompt)
        return command.Configuration(label, partial(_running, settings), plan)

    configurations = [configuration("as set", _load_settings())]
    if compare:
        try:
            variables = command.assignments(compare)
        except ValueError as error:
            _fail(f"--compare {error}", code=2)
        configurations.append(configuration(compare, _load_settings(variables)))
    logs.configure("warning", "console")
    try:
        recordings = command.Recordings(manifest, language, limit)
        failed = command.evaluate(recordings, configurations, sys.stdout, output=output, as_json=as_json)
    except (AsrError, EvaluationError) as error:
        _fail(str(error))
    if failed:
        raise typer.Exit(1)


def _tracer(settings: Settings) -> traces.Tracer:
    """Where traces go, if anywhere. Raises TracesUnavailable."""
    wanted = settings.traces
    if wanted.url is None:
        return traces.NO_TRACES
    return traces.otlp(wanted.url, sample_ratio=wanted.sample_ratio, headers=wanted.fields)


async def _serve(settings: Settings, listener: socket.socket, tracer: traces.Tracer) -> Exception | None:
    """Serve until a signal, or until it turns out that there will be no model: the reason is returned."""
    from asr_service.api.app import create_app

    failures: list[Exception] = []

    def end(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    manager = ServiceManager.found()
    notifier = Notifier(manager.address)
    engine, decoder, metrics = _parts(settings, on_state=notifier.engine_state)
    ears = Listener(decoder_environment(), on_restart=metrics.live.listener_restarted)
    app = create_app(settings, engine, decoder, metrics, listener=ears, tracer=tracer, on_load_failed=end)
    config = configuration(app, settings.trusted_proxy_networks)
    server = Server(config, app.state.parts.admission, settings.shutdown_grace_s, on_drain=notifier.stopping)
    host, port = listener.getsockname()[:2]
    _log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", model=settings.model)
    async with _watched(notifier, manager.watchdog_s, lambda: _is_alive(engine, server)):
        await server.serve(sockets=[listener])
    return failures[0] if failures else None


def _is_alive(engine: EngineClient, server: Server) -> bool:
    """Whether the service can do its work again, however bad things are: somebody looks after the engine, or soon will,
    or the end has come.
    """
    return engine.is_supervised or not server.started or server.should_exit


@contextlib.asynccontextmanager
async def _watched(notifier: Notifier, watchdog_s: float | None, is_alive: Callable[[], bool]) -> AsyncIterator[None]:
    """Tell systemd, if it wants to hear it, twice in each of its periods that the service is alive."""
    if watchdog_s is None:
        yield
        return
    telling = asyncio.create_task(notifier.watchdog(watchdog_s / 2, is_alive), name="watchdog")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


@contextlib.asynccontextmanager
async def _running(settings: Settings, bar: ProgressBar) -> AsyncIterator[tuple[EngineClient, DecodePool]]:
    """An engine and a decoder that are ready. Raises ModelUnavailable."""
    engine, decoder, _ = _parts(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.aclose)
        await engine.start()
        stack.push_async_callback(decoder.aclose)
        await decoder.start()
        await engine.wait_ready()
        bar.begin()
        yield engine, decoder


async def _transcribe(settings: Settings, files: list[Path], fields: dict[str, str], output: Format) -> int:
    """Transcribe and print `files` in their order. Returns how many failed. Raises ModelUnavailable, InvalidOption."""
    with ProgressBar() as bar:
        async with _running(settings, bar) as (engine, decoder):
            assert engine.model is not None
            if output in subtitles.WRITERS and engine.model.word_times:
                fields = fields | {"words": "true"}
            options, warnings = parse_options(fields, engine.model)
            transcriber = Transcriber(engine, decoder, windows_in_flight=settings.windows_in_flight)
            failed = 0
            async with contextlib.aclosing(
                transcribe_files(transcriber, files, options, at_once=settings.max_batch, watcher=bar)
            ) as outcomes:
                async for outcome in outcomes:
                    with bar.aside():
                        _print(outcome, warnings, output, with_name=len(files) > 1)
                    failed += outcome.transcript is None
    return failed


def _print(outcome: Outcome, warnings: tuple[str, ...], output: Format, *, with_name: bool) -> None:
    if outcome.transcript is None:
        typer.echo(f"{outcome.path}: {outcome.error}", err=True)
        return
    reply = TranscriptReply.build(outcome.transcript, outcome.request_id, warnings)
    if output is Format.JSON:
        typer.echo(json.dumps({"file": str(outcome.path)} | reply.model_dump(), ensure_ascii=False))
        return
    for warning in reply.warnings:
        typer.echo(f"{outcome.path}: {warning}", err=True)
    if output in subtitles.WRITERS:
        typer.echo(subtitles.WRITERS[output](subtitles.cues(outcome.transcript.segments)), nl=False)
        return
    typer.echo(f"{outcome.path}: {reply.text}" if with_name else reply.text)


def _parts(
    settings: Settings, on_state: Callable[[str | None], None] = lambda not_ready_reason: None
) -> tuple[EngineClient, DecodePool, Metrics]:
    metrics = Metrics()
    engine_metrics = metrics.engine()
    engine = EngineClient(
        EngineConfig(
            model=settings.model,
            revision=settings.model_revision,
            device=settings.device,
            dtype=settings.dtype,
            encoder=settings.encoder,
            quantization=settings.quantization,
            aligner=settings.aligner,
            threads=settings.threads,
            slots=settings.max_batch,
            cache_dir=str(settings.cache_dir),
        ),
        engine_environment(),
        on_stats=engine_metrics.observe_stats,
        on_restart=engine_metrics.restarted,
        on_state=on_state,
    )
    decoder = DecodePool(
        settings.decode_worker_count,
        AudioLimits(max_audio_s=settings.max_audio_s, max_memory_bytes=settings.decode_memory_mb * 2**20),
        decoder_environment(),
        on_restart=metrics.decode_worker_restarted,
    )
    return engine, decoder, metrics


def _load_settings(variables: Mapping[str, str] = MappingProxyType({}), /, **overrides: object) -> Settings:
    try:
        return Settings.load(variables, **overrides)
    except SettingsError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from None


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that a taken port is known before anything is started."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        _fail(f"Cannot listen on {host}: {error.strerror}.")
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            _fail(f"Port {port} on {host} is in use: stop the other program, or choose another port with --port.")
        _fail(f"Cannot listen on port {port} of {host}: {error.strerror}.")
    return listener


def _fail(sentence: str, code: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(code) from None


if __name__ == "__main__":
    main()
