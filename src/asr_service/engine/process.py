"""The engine's process: `python -m asr_service.engine.process FD`.

Owns the device, the loading of the model, and the three threads: one reads messages, one computes features, so that
both happen while the device is busy; the third is the engine's loop, which blocks only while there is nothing to do.
End-of-file on the channel means that the service has gone, and ends the process.
"""

import contextlib
import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from asr_service.domain import ModelInfo, WindowOptions
from asr_service.engine.core import EngineCore
from asr_service.engine.intake import Intake
from asr_service.engine.messages import (
    Cancel,
    EngineConfig,
    Failed,
    FromEngine,
    LoadFailed,
    Ready,
    Submit,
    decode_to_engine,
    encode,
)
from asr_service.errors import EngineError, ModelUnavailable
from asr_service.ipc import BlockingChannel, ChannelClosed
from asr_service.models.base import Aligner, Features, NewSequence, Runner
from asr_service.models.registry import LoadOptions, load_aligner, load_runner

log = logging.getLogger("asr_service.engine")

_WINDOWS_PER_STEP = {"cpu": 1, "cuda": 16}
"""Full windows that one step may encode. A CPU is busy with one; a GPU wants many."""

_RETURN_MEMORY_S = 10.0
"""Tensors of all sizes leave holes in the heap, which grew by a tenth in 15 minutes. Closing them takes 20 ms."""

_Prepared = tuple[Submit, Features, Features | None] | Failed
_Inbound = _Prepared | Cancel | None
_Intake = Intake[_Prepared]


def main(fd: int) -> int:
    """Serve until the channel closes. Returns the exit status."""
    # Ctrl-C reaches the whole process group, but it is the service that decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The service reads these lines, and logs them as its own.
    logging.basicConfig(level=logging.INFO, format=logging.BASIC_FORMAT, stream=sys.stderr)
    logging.captureWarnings(True)
    channel = BlockingChannel(fd)
    try:
        config = decode_to_engine(channel.receive()[0])
        if not isinstance(config, EngineConfig):
            raise TypeError(f"the first message must be an EngineConfig, not {type(config).__name__}")
        return _serve(channel, config)
    except ChannelClosed:
        return 0


def _serve(channel: BlockingChannel, config: EngineConfig) -> int:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    try:
        runner, aligner = _load(config)
    except ModelUnavailable as error:
        channel.send(encode(LoadFailed(error.message)))
        return 1
    _warm_up(runner, aligner)
    _return_memory()
    inbox: queue.SimpleQueue[_Inbound] = queue.SimpleQueue()
    intake = Intake(lambda message: _with_features(message, runner, aligner), inbox.put)
    threading.Thread(target=_read, args=(channel, intake, inbox), name="reader", daemon=True).start()
    threading.Thread(target=_prepare, args=(intake, inbox), name="features", daemon=True).start()
    channel.send(encode(Ready(_info(runner, aligner))))
    _loop(channel, runner, aligner, config, inbox)
    return 0


def _load(config: EngineConfig) -> tuple[Runner, Aligner | None]:
    options = LoadOptions(
        device=config.device,
        dtype=config.dtype,
        encoder=config.encoder,
        quantization=config.quantization,
        slots=config.slots,
        revision=config.revision,
        cache_dir=Path(config.cache_dir),
    )
    runner = load_runner(config.model, options)
    return runner, load_aligner(config.aligner, runner, config.model, options)


def _info(runner: Runner, aligner: Aligner | None) -> ModelInfo:
    if aligner is None:
        return runner.info
    return replace(runner.info, word_times=True, memory_bytes=runner.info.memory_bytes + aligner.memory_bytes)


def _warm_up(runner: Runner, aligner: Aligner | None = None) -> None:
    """Run every kind of step once, so that the first request pays for no allocation and no kernel choice."""
    noise = np.random.default_rng(0).normal(scale=1000.0, size=16_000).astype(np.int16)
    sequence = NewSequence(runner.features(noise), WindowOptions())
    runner.admit(0, [sequence])
    for batch in (1, runner.info.slots):
        runner.decode(0, batch)
    if aligner is not None:
        aligner.words(0, sequence.features if aligner.shared else aligner.features(noise), "One.", None)


def _return_memory() -> None:
    """Give what has been freed back to the system; glibc would keep it for itself, between what is still in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _read(channel: BlockingChannel, intake: _Intake, inbox: "queue.SimpleQueue[_Inbound]") -> None:
    try:
        while True:
            message = decode_to_engine(channel.receive()[0])
            if isinstance(message, Submit):
                intake.add(message)
            elif isinstance(message, Cancel):
                intake.cancel(message)
    except ChannelClosed:
        log.debug("the service has closed the channel")
    finally:
        inbox.put(None)


def _prepare(intake: _Intake, inbox: "queue.SimpleQueue[_Inbound]") -> None:
    try:
        intake.work()
    finally:
        inbox.put(None)


def _with_features(message: Submit, runner: Runner, aligner: Aligner | None) -> _Prepared:
    try:
        pcm = np.frombuffer(message.pcm, dtype="<i2")
        own = aligner.features(pcm) if aligner is not None and message.options.words and not aligner.shared else None
        return message, runner.features(pcm), own
    except ValueError as error:
        return Failed(message.id, EngineError.code, f"The window cannot be used: {error}")


def _loop(
    channel: BlockingChannel,
    runner: Runner,
    aligner: Aligner | None,
    config: EngineConfig,
    inbox: "queue.SimpleQueue[_Inbound]",
) -> None:
    device = runner.info.device.partition(":")[0]

    def send(message: FromEngine) -> None:
        channel.send(encode(message))

    core = EngineCore(
        runner,
        send,
        time.monotonic,
        max_step_frames=_WINDOWS_PER_STEP[device] * runner.frames_per_window,
        aligner=aligner,
        guard=config.guard,
        is_fatal=_is_fatal,
        memory=_memory_of(runner.info.device),
    )
    # With nothing to do, a step says how things stand.
    core.step()
    returned_s = time.monotonic()
    while True:
        message = inbox.get() if core.idle else _next(inbox)
        while message is not _EMPTY:
            if message is None:
                return
            if isinstance(message, Cancel):
                core.cancel(message)
            elif isinstance(message, Failed):
                send(message)
            elif isinstance(message, tuple):
                core.submit(*message)
            message = _next(inbox)
        core.step()
        if time.monotonic() - returned_s > _RETURN_MEMORY_S:
            _return_memory()
            returned_s = time.monotonic()


_EMPTY = object()


def _next(inbox: "queue.SimpleQueue[_Inbound]") -> object:
    try:
        return inbox.get_nowait()
    except queue.Empty:
        return _EMPTY


def _memory_of(device: str) -> Callable[[], tuple[int, int]]:
    """Reads how many bytes of the device's memory this process holds, and how many there are."""
    if device.startswith("cuda"):
        on_device = torch.cuda.get_device_properties(device).total_memory
        return lambda: (torch.cuda.memory_reserved(device), on_device)
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    return lambda: (page * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]), total)


def _is_fatal(error: Exception) -> bool:
    """After a CUDA error (other than want of memory) every further call on the device fails."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
