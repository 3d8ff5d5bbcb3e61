"""A decode worker on strings: its "upload" is a pipe through which the test tells it, line by line, what to do next."""

import os
import sys

from asr_service.audio.messages import Configure, Done, Failed, FromWorker, Job, Progress, Ready, WindowCut
from asr_service.audio.messages import decode_to_worker as unpack
from asr_service.audio.messages import encode as pack
from asr_service.domain import AudioSummary, Region, Window
from asr_service.ipc import BlockingChannel, ChannelClosed


def act(line: str, count: int) -> FromWorker:
    """Windows are numbered by `count`. "exit N" and "kill N" do not return."""
    command, *arguments = line.split()
    match command:
        case "window":
            return WindowCut(Window(count, count * 100, count * 100 + 100, Region(count, count + 1)))
        case "progress":
            return Progress(1.0)
        case "done":
            return Done(AudioSummary(float(os.getpid()), (), 1.0, 1.0))
        case "fail":
            return Failed(arguments[0], "As told.")
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
        channel.send(pack(Ready()))
        while True:
            payload, (strings, pcm) = channel.receive()
            assert isinstance(unpack(payload), Job)
            with os.fdopen(strings) as lines, os.fdopen(pcm, "wb"):
                for count, line in enumerate(lines):
                    message = act(line, count)
                    channel.send(pack(message))
                    if isinstance(message, Done | Failed):
                        break
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
