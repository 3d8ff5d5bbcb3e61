"""Runs inside the environment of faster-whisper: a line of JSON in, a line of JSON out, one file at a time.

Owns how faster-whisper is called. Imports nothing of this project, which is not installed there.
"""

import argparse
import json
import sys
from typing import Any

from faster_whisper import BatchedInferencePipeline, WhisperModel

# The work that the service does as well: greedy, no timestamps, no second attempts, English given.
SAME_WORK: dict[str, Any] = {"temperature": 0.0, "without_timestamps": True, "condition_on_previous_text": False}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder of a CTranslate2 model")
    parser.add_argument("--compute-type", default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0, help="windows per batch of the batched pipeline; 0: without it")
    parser.add_argument(
        "--library-defaults", action="store_true", help="fallback temperatures and timestamps as shipped"
    )
    chosen = parser.parse_args()

    model = WhisperModel(chosen.model, device="cpu", compute_type=chosen.compute_type, cpu_threads=chosen.threads)
    options: dict[str, Any] = {"language": "en", "beam_size": 1}
    if not chosen.library_defaults:
        options |= SAME_WORK
    transcribe = model.transcribe
    if chosen.batch:
        transcribe = BatchedInferencePipeline(model).transcribe
        options["batch_size"] = chosen.batch
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        segments, _ = transcribe(json.loads(line)["path"], **options)
        text = " ".join(segment.text.strip() for segment in segments)
        print(json.dumps({"text": text}), flush=True)


if __name__ == "__main__":
    main()
