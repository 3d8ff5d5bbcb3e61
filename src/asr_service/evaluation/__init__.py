"""Accuracy on recordings with references: what `asr-service evaluate` does.

Owns manifests, normalisers, error counts, confidence intervals and their report. Transcribes through the same path as
`asr-service transcribe`, and must not know how its parts are built. Only the command line imports it, and it does not
import torch.
"""

from importlib.util import find_spec

PACKAGES = ("jiwer", "opencc", "whisper_normalizer")


class EvaluationError(Exception):
    """An evaluation cannot be done; the message says in a sentence (or one a line) what is wrong and what to do."""


def require(packages: tuple[str, ...] = PACKAGES) -> None:
    """Raise EvaluationError where the packages of the extra `eval` are not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise EvaluationError(
            f"The evaluator needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'asr-service[eval]'."
        )
