"""Installs peers: `python -m benchmarks.peers setup faster-whisper` (0.5 GB), `… setup vllm` (about 3 GB)."""

from enum import StrEnum

import typer

from benchmarks.peers import environments

app = typer.Typer(add_completion=False, help="Peers to measure against.")


class Peer(StrEnum):
    FASTER_WHISPER = "faster-whisper"
    VLLM = "vllm"


@app.command()
def setup(names: list[Peer]) -> None:
    """Install peers into environments of their own (BENCH_PEERS_DIR, or ~/.cache/asr-service-peers)."""
    for name in names:
        build = environments.setup_vllm if name is Peer.VLLM else environments.setup_faster_whisper
        print(f"{name} is in {build()}")


@app.command()
def where() -> None:
    """Say where the peers are."""
    print(environments.root())


if __name__ == "__main__":
    app()
