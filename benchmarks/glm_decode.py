"""GLM-ASR at full size with random weights: tokens per second of a batch, encoder not counted.

    python -m benchmarks.glm_decode --peers vllm
    python -m benchmarks.glm_decode --runner-option quantization=int8

Ours runs in this process: decode steps over full rows are timed. vLLM is asked over HTTP for a few and for many tokens
about the same clips, whose encoder output it has cached; the difference is its decode time alone.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_service.domain import WindowOptions
from asr_service.models.base import NewSequence, Runner
from benchmarks import glm_checkpoint, limits, runners
from benchmarks.cli import start
from benchmarks.clips import Clip, noise_clips
from benchmarks.load import running
from benchmarks.peers.vllm import VllmTokens
from benchmarks.processes import paused
from benchmarks.report import RESULTS, Table, publish
from benchmarks.stats import ratios, spread

_FEW_TOKENS = 2
VLLM_OPTIONS = ("--max-model-len", "2048", "--load-format", "dummy")


def main(
    batch: Annotated[int, typer.Option(help="Sequences that are decoded together.")] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens of each sequence per round.")] = 50,
    audio_s: Annotated[float, typer.Option(help="Audio of each sequence, in seconds.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="How often it is repeated.")] = 3,
    peers: Annotated[str, typer.Option(help="vllm, or an empty string.")] = "",
    runner_option: Annotated[
        list[str] | None, typer.Option(help="One of LoadOptions, as name=value; repeatable.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder that takes glm_decode.jsonl.")] = RESULTS,
) -> None:
    """Measure decode tokens/s, and the share of the memory bandwidth that our decode step reaches."""
    further = runners.options(runner_option or [])
    folder = glm_checkpoint.ensure()
    runner = runners.load(folder, batch, further, dtype="bfloat16")
    ours, theirs, bandwidths = asyncio.run(
        _measure(runner, folder, batch, tokens, audio_s, rounds, with_vllm=peers == "vllm")
    )
    needed = _weight_bytes() + batch * _cache_bytes(audio_s, tokens)
    steps_s = [batch / rate for rate in ours]
    floors_s = [needed / bandwidth for bandwidth in bandwidths]
    rows: list[dict[str, Any]] = [{"system": _name(further), "tokens/s": spread(ours)}]
    if theirs:
        rows.append({"system": VllmTokens.name, "tokens/s": spread(theirs)})
    step = {
        "ms a step": spread(1000 * step_s for step_s in steps_s),
        "memory read, GB/s": spread(bandwidth / 1e9 for bandwidth in bandwidths),
        "floor with bf16 weights, ms": spread(1000 * floor_s for floor_s in floors_s),
        "floor / time, %": spread(100 * floor_s / step_s for floor_s, step_s in zip(floors_s, steps_s, strict=True)),
    }
    tables = [Table(f"GLM-ASR, full size, decoding {batch} sequences", rows), Table("Decode step", [step])]
    if theirs:
        rows = [{"peer": VllmTokens.name, "times its tokens/s": ratios(ours, theirs)}]
        tables.append(Table("asr-service against its peer, median and range of the rounds", rows))
    settings = {"batch": batch, "tokens": tokens, "audio_s": audio_s, "rounds": rounds} | further
    publish("glm_decode", tables, settings, results)


async def _measure(
    runner: Runner, folder: Path, batch: int, tokens: int, audio_s: float, rounds: int, *, with_vllm: bool
) -> tuple[list[float], list[float], list[float]]:
    """Tokens/s of each round, ours and vLLM's (empty without it), and bytes of memory read per second."""
    peer = VllmTokens(folder, tokens, max_sequences=batch, arguments=VLLM_OPTIONS) if with_vllm else None
    ours, theirs, bandwidths = [], [], []
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as scratch:
        clips = noise_clips(batch, audio_s, Path(scratch))
        async with running([peer]) if peer is not None else contextlib.nullcontext():
            if peer is not None:
                await _answer_all(peer, clips, _FEW_TOKENS)
            for number in range(rounds):
                with paused([] if peer is None else peer.processes()):
                    _fill(runner, clips)
                    ours.append(_decode(runner, batch, tokens))
                    bandwidths.append(limits.read_bytes_per_s())
                print(f"round {number + 1}, ours: {ours[-1]:.1f} tokens/s", flush=True)
                if peer is not None:
                    theirs.append(await _vllm_rate(peer, clips, tokens))
                    print(f"round {number + 1}, vLLM: {theirs[-1]:.1f} tokens/s", flush=True)
    return ours, theirs, bandwidths


def _fill(runner: Runner, clips: Sequence[Clip]) -> None:
    for row, clip in enumerate(clips):
        runner.admit(row, [NewSequence(runner.features(runners.samples(clip)), WindowOptions())])


def _decode(runner: Runner, batch: int, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        runner.decode(0, batch)
    return batch * steps / (time.perf_counter() - started)


async def _vllm_rate(peer: VllmTokens, clips: Sequence[Clip], tokens: int) -> float:
    few_s = await _answer_all(peer, clips, _FEW_TOKENS)
    many_s = await _answer_all(peer, clips, _FEW_TOKENS + tokens)
    return len(clips) * tokens / (many_s - few_s)


async def _answer_all(peer: VllmTokens, clips: Sequence[Clip], tokens: int) -> float:
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for clip in clips:
            group.create_task(peer.generate(clip, tokens))
    return time.perf_counter() - started


def _weight_bytes() -> float:
    """Bytes of bfloat16 weights that one decode step must read: all layers and the output layer."""
    text = glm_checkpoint.config().text_config
    width, head_dim = text.hidden_size, text.head_dim
    attention = 2 * width * head_dim * (text.num_attention_heads + text.num_key_value_heads)
    layer = attention + 3 * width * text.intermediate_size
    return float(2 * (text.num_hidden_layers * layer + text.vocab_size * width))


def _cache_bytes(audio_s: float, tokens: int) -> float:
    """Keys and values of one sequence in the middle of its answer: 12.5 positions a second of audio."""
    text = glm_checkpoint.config().text_config
    positions = 12.5 * audio_s + tokens / 2
    return float(2 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * positions)


def _name(further: dict[str, str]) -> str:
    return "asr-service, in process" + "".join(f", {name} {value}" for name, value in further.items())


if __name__ == "__main__":
    start(main)
