"""OpenAI's own client, pointed at this service: `pip install openai`, then

python examples/openai_client.py recording.mp3 [http://127.0.0.1:8000/v1]
"""

import sys
from pathlib import Path

from openai import APIStatusError, OpenAI


def main(recording: Path, base_url: str) -> None:
    client = OpenAI(base_url=base_url, api_key="unused")
    model = client.models.list().data[0].id
    print(f"== The text, from {model}")
    print(client.audio.transcriptions.create(model=model, file=recording).text)

    print("== Times of segments and words")
    try:
        verbose = client.audio.transcriptions.create(
            model=model, file=recording, response_format="verbose_json", timestamp_granularities=["segment", "word"]
        )
    except APIStatusError as error:  # for example a service without an aligner
        print(f"{error.status_code}: {error.message}")
    else:
        print(f"{verbose.duration} s of {verbose.language}")
        for segment in verbose.segments or ():
            print(f"{segment.start:8.2f} {segment.end:8.2f}  {segment.text}")
        for word in verbose.words or ():
            print(f"{word.start:8.2f} {word.end:8.2f}  {word.word}")

    print("== Subtitles")
    print(client.audio.transcriptions.create(model=model, file=recording, response_format="srt"))

    print("== Text as it comes")
    for event in client.audio.transcriptions.create(model=model, file=recording, stream=True):
        if event.type == "transcript.text.delta":
            print(event.delta, end="", flush=True)
        elif event.type == "transcript.text.done":
            print(f"\n({len(event.text)} characters)")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(f"usage: {sys.argv[0]} RECORDING [BASE_URL]")
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "http://127.0.0.1:8000/v1")
