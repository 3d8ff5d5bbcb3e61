"""Real speech for tests: clips that are installed with a test dependency, and recordings beside the checkout."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SHARED_AUDIO = Path(__file__).resolve().parents[2] / "shared" / "audio"


def shared_recordings() -> list[Path]:
    """Recordings that do not come with the project; empty where they are absent."""
    return sorted(SHARED_AUDIO.glob("*.wav"))


def packaged_clips() -> list[Path]:
    """Synthetic speech in ten languages from the package pytest-audioeval."""
    spec = find_spec("pytest_audioeval")
    assert spec is not None, "pytest-audioeval is a test dependency"
    assert spec.submodule_search_locations
    return sorted((Path(spec.submodule_search_locations[0]) / "samples" / "audio").rglob("*.wav"))


def load_pcm(path: Path) -> NDArray[np.int16]:
    """Mono 16 kHz samples of a file."""
    return np.concatenate(list(_chunks(path)))


def _chunks(path: Path) -> Iterator[NDArray[np.int16]]:
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(str(path)) as container:
        for frame in (*container.decode(audio=0), None):
            for resampled in resampler.resample(frame):
                yield resampled.to_ndarray()[0]
