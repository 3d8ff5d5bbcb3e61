"""A stand-in for the engine's process that does what the prompt of each window says.

`say TEXT` answers; `hang` never does; `die` ends the process at once, `die once` only the first one (a marker file
says whether it has happened); `fail` answers with an error; `babble` sends what is no message, once. The model's name
says how loading ends: "missing" fails for good, "crash" dies, "slow" waits until somebody opens the pipe `go` in the
scratch folder, "moody" fails as long as there is a file `broken` in it, anything else succeeds.
"""

import os
import sys
from pathlib import Path

from asr_service.domain import ModelInfo, WindowTimings
from asr_service.engine.messages import (
    Cancel,
    EngineConfig,
    Failed,
    Finished,
    FromEngine,
    LoadFailed,
    Ready,
    Started,
    Stats,
    Submit,
    decode_to_engine,
    encode,
)
from asr_service.ipc import BlockingChannel, ChannelClosed


class Engine:
    def __init__(self, fd: int) -> None:
        self.channel = BlockingChannel(fd)
        self.cancelled = 0
        self.scratch = Path()

    def send(self, message: FromEngine) -> None:
        self.channel.send(encode(message))

    def run(self) -> None:
        while True:
            message = decode_to_engine(self.channel.receive()[0])
            if isinstance(message, EngineConfig):
                self.load(message)
            elif isinstance(message, Cancel):
                self.cancelled += 1
                self.send(Stats(self.cancelled, 0, [], 0, 0, 0))
            else:
                self.answer(message)

    def load(self, config: EngineConfig) -> None:
        self.scratch = Path(config.cache_dir)
        if config.model == "missing":
            self.send(LoadFailed("There is no such model."))
            sys.exit(1)
        if config.model == "crash":
            os._exit(9)
        if config.model == "slow":
            (self.scratch / "go").read_bytes()
        if config.model == "moody" and (self.scratch / "broken").exists():
            self.send(LoadFailed("The disk is full."))
            sys.exit(1)
        self.send(Ready(ModelInfo(config.model, "scripted", "cpu", "float32", (), 1, 0, 0.0)))

    def answer(self, message: Submit) -> None:
        verb, _, rest = (message.options.prompt or "").partition(" ")
        self.send(Started(message.id, message.options.language or "en"))
        if verb in ("die", "babble"):
            marker = self.scratch / "died"
            if rest != "once" or not marker.exists():
                marker.touch()
                if verb == "die":
                    os._exit(9)
                self.channel.send(b"what?")
            rest = "survived"
        if verb == "fail":
            self.send(Failed(message.id, "engine_error", "No."))
        elif verb != "hang":
            text = f"{rest} {len(message.pcm)}"
            self.send(Finished(message.id, text, "en", 1, WindowTimings(1.0, 2.0, 3.0, 4), None))


if __name__ == "__main__":
    try:
        Engine(int(sys.argv[1])).run()
    except ChannelClosed:
        sys.exit(0)
