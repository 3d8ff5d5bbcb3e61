"""GLM-ASR at full size with random weights: tokens per second of a batch, encoder not counted.

    python -m benchmarks.glm_decode --ours quantization=none --ours quantization=int8 --peers vllm

Ours run in this process: decode steps over full rows are timed. vLLM is asked over HTTP for a few and for many tokens
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
    ours: Annotated[
        list[str] | None, typer.Option(help="LoadOptions, as name=value,name=value; repeat to compare several.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder that takes glm_decode.jsonl.")] = RESULTS,
) -> None:
    """Measure decode tokens/s, and the share of the memory bandwidth that our decode step reaches."""
    variants = ours or ["quantization=none"]
    folder = glm_checkpoint.ensure()
    loaded = [runners.load(folder, batch, runners.options(v.split(",")), dtype="bfloat16") for v in variants]
    rates, bandwidths = asyncio.run(_measure(loaded, folder, batch, tokens, audio_s, rounds, with_vllm=peers == "vllm"))
    theirs = rates.pop() if peers == "vllm" else None
    names = [f"asr-service, in process, {variant}" for variant in variants]
    rows: list[dict[str, Any]] = [
        {"system": name, "tokens/s": spread(ours_rates), "ms a step": spread(1000 * batch / r for r in ours_rates)}
        for name, ours_rates in zip(names, rates, strict=True)
    ]
    needed = _weight_bytes() + batch * _cache_bytes(audio_s, tokens)
    floors_s = [needed / bandwidth for bandwidth in bandwidths]
    step = {
        "memory read, GB/s": spread(bandwidth / 1e9 for bandwidth in bandwidths),
        "floor with bf16 weights, ms": spread(1000 * floor_s for floor_s in floors_s),
        f"floor / time of {variants[0]}, %": spread(
            100 * floor_s * rate / batch for floor_s, rate in zip(floors_s, rates[0], strict=True)
        ),
    }
    tables = [Table("Decode step", [step])]
    if theirs is not None:
        rows.append({"system": VllmTokens.name, "tokens/s": spread(theirs), "ms a step": ""})
        compared = [
            {"system": name, f"times the tokens/s of {VllmTokens.name}": ratios(ours_rates, theirs)}
            for name, ours_rates in zip(names, rates, strict=True)
        ]
        tables.append(Table("asr-service against its peer, median and range of the rounds", compared))
    tables.insert(0, Table(f"GLM-ASR, full size, decoding {batch} sequences", rows))
    settings = {"batch": batch, "tokens": tokens, "audio_s": audio_s, "rounds": rounds, "ours": variants}
    publish("glm_decode", tables, settings, results)


async def _measure(
    loaded: Sequence[Runner], folder: Path, batch: int, tokens: int, audio_s: float, rounds: int, *, with_vllm: bool
) -> tuple[list[list[float]], list[float]]:
    """Tokens/s of each round: a list for each of ours, then vLLM's where it takes part; and bytes of memory read per
    second.
    """
    peer = VllmTokens(folder, tokens, max_sequences=batch, arguments=VLLM_OPTIONS) if with_vllm else None
    rates: list[list[float]] = [[] for _ in loaded]
    theirs, bandwidths = [], []
    with tempfile.TemporaryDirectory(prefix="asr-bench-") as scratch:
        clips = noise_clips(batch, audio_s, Path(scratch))
        async with running([peer]) if peer is not None else contextlib.nullcontext():
            if peer is not None:
                await _answer_all(peer, clips, _FEW_TOKENS)
            print("ready", flush=True)
            for number in range(rounds):
                with paused([] if peer is None else peer.processes()):
                    for runner, ours in zip(loaded, rates, strict=True):
                        _fill(runner, clips)
                        ours.append(_decode(runner, batch, tokens))
                        print(f"round {number + 1}, ours: {ours[-1]:.1f} tokens/s", flush=True)
                    bandwidths.append(limits.read_bytes_per_s())
                if peer is not None:
                    theirs.append(await _vllm_rate(peer, clips, tokens))
                    print(f"round {number + 1}, vLLM: {theirs[-1]:.1f} tokens/s", flush=True)
    return ([*rates, theirs] if peer is not None else rates), bandwidths


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


if __name__ == "__main__":
    start(main)
