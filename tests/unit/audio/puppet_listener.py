"""A listening process that hears nothing, says back what it gets, and dies of `die!`."""

import os
import signal
import sys

from asr_service.audio.listener_messages import Finish, Hear, Heard, Ready, decode_to_listener, encode
from asr_service.ipc import BlockingChannel, ChannelClosed


def main(fd: int) -> None:
    channel = BlockingChannel(fd)
    channel.send(encode(Ready()))
    try:
        while True:
            message = decode_to_listener(channel.receive()[0])
            if isinstance(message, Hear):
                if message.data == b"die!":
                    os.kill(os.getpid(), signal.SIGKILL)
                channel.send(encode(Heard(message.stream, message.data, [], None, 0)))
            elif isinstance(message, Finish):
                channel.send(encode(Heard(message.stream, b"", [], None, 0)))
    except ChannelClosed:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
