"""A decode worker on strings: its "upload" is a pipe through which the test tells it, line by line, what to do next."""

import os
import sys

from asr_service.audio.messages import Configure, Done, Failed, FromWorker, Job, Progress, Ready, WindowCut
from asr_service.audio.messages import decode_to_worker as unpack
from asr_service.audio.messages import encode as pack
from asr_service.domain import AudioSummary, Region, Window
from asr_service.ipc import BlockingChannel, ChannelClosed

_BEYOND = float("1e300")
LIES: dict[str, FromWorker] = {
    "window-not-written": WindowCut(Window(0, 0, 100, Region(0, 1))),
    "window-of-no-length": WindowCut(Window(0, 0, 0, Region(0, 1))),
    "window-before-the-start": WindowCut(Window(0, -100, 0, Region(0, 1))),
    "no-time": Progress(float("nan")),
    "time-beyond-the-end": Progress(_BEYOND),
    "summary-beyond-the-end": Done(AudioSummary(_BEYOND, (), 1.0, 1.0)),
    "summary-of-novels": Done(AudioSummary(1.0, ("x" * 10_000,), 1.0, 1.0)),
    "summary-of-many-words": Done(AudioSummary(1.0, ("x",) * 100, 1.0, 1.0)),
    "summary-of-no-time": Done(AudioSummary(1.0, (), float("nan"), 1.0)),
    "failure-of-many-words": Failed("unreadable_audio", "x" * 10_000),
    "ready-again": Ready(),
}


def act(line: str, count: int, pcm: int) -> FromWorker:
    """Windows are numbered by `count`, and their PCM is in the file. "exit N" and "kill N" do not return."""
    command, *arguments = line.split()
    match command:
        case "window":
            os.pwrite(pcm, bytes(200), count * 200)
            return WindowCut(Window(count, count * 100, count * 100 + 100, Region(count, count + 1)))
        case "progress":
            return Progress(1.0)
        case "done":
            return Done(AudioSummary(1.0, (), float(os.getpid()), 1.0))
        case "fail":
            return Failed(arguments[0], "As told.")
        case "lie":
            return LIES[arguments[0]]
        case "exit":
            os._exit(int(arguments[0]))
        case _:
            os.kill(os.getpid(), int(arguments[0]))
            raise AssertionError("the signal did not end this process")


def main() -> None:
    channel = BlockingChannel(int(sys.argv[1]))
    if os.environ.get("REFUSE"):
        raise SystemExit(3)
    try:
        assert isinstance(unpack(channel.receive()[0]), Configure)
        channel.send(pack(Ready(os.environ.get("UNFILTERED"))))
        while True:
            payload, (strings, pcm) = channel.receive()
            assert isinstance(unpack(payload), Job)
            with os.fdopen(strings) as lines, os.fdopen(pcm, "wb"):
                for count, line in enumerate(lines):
                    if line.startswith("raw"):
                        channel.send(bytes(int(line.split()[1])))
                        continue
                    while line.startswith("flood"):
                        channel.send(pack(Progress(1.0)))
                    message = act(line, count, pcm)
                    channel.send(pack(message))
                    if isinstance(message, Done | Failed):
                        break
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
