"""A manifest of Debian's telephone prompts, for `asr-service evaluate`.

    apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en
    python -m benchmarks.telephone_corpus telephone.tsv
    asr-service evaluate telephone.tsv

Left out is what has no words: silence, beeps, chimes, monkeys.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import start
from benchmarks.clips import telephone_clips


def main(manifest: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Write a manifest of all telephone prompts with words in them."""
    clips = telephone_clips()
    if not clips:
        raise SystemExit(
            "The telephone prompts are not installed: "
            "apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en"
        )
    rows = [f"{clip.path}\t{clip.text}\ten\n" for clip in sorted(clips, key=lambda clip: clip.name)]
    manifest.write_text("audio\treference\tlanguage\n" + "".join(rows), encoding="utf-8")
    print(f"{manifest}: {len(clips)} clips, {sum(clip.duration_s for clip in clips) / 60:.1f} minutes")


if __name__ == "__main__":
    start(main)
