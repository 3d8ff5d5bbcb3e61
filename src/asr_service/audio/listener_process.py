"""The process that listens to live speech, of all sessions: `python -m asr_service.audio.listener_process FD`.

Owns the streams by their numbers, and nothing of them that cannot be had again: when this process dies, another one
takes them over. What it reads is plain samples, which it never interprets otherwise.
"""

import signal
import sys

from asr_service.audio import sandbox
from asr_service.audio.listener_messages import (
    Close,
    Finish,
    Hear,
    Open,
    Ready,
    StreamSettings,
    decode_to_listener,
    encode,
)
from asr_service.audio.speech_stream import SpeechStream
from asr_service.audio.vad import load_model
from asr_service.domain import SAMPLE_RATE_HZ
from asr_service.ipc import BlockingChannel, ChannelClosed

_MEMORY_BYTES = 1024 * 1024 * 1024


def main(fd: int) -> None:
    """Serve the channel at `fd` until its other end closes."""
    # Ctrl-C reaches the whole process group; the parent decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = BlockingChannel(fd)
    model = load_model()
    # Once, so that the first speaker does not wait for libraries to set themselves up.
    SpeechStream(0, model, StreamSettings()).feed(bytes(2 * SAMPLE_RATE_HZ))
    unfiltered = sandbox.confine(_MEMORY_BYTES, max_output_bytes=0)
    streams: dict[int, SpeechStream] = {}
    try:
        channel.send(encode(Ready(unfiltered)))
        while True:
            match decode_to_listener(channel.receive()[0]):
                case Open(number, settings, start_sample, heard):
                    streams[number] = SpeechStream(number, model, settings, start_sample=start_sample, heard=heard)
                case Hear(number, data):
                    channel.send(encode(streams[number].feed(data)))
                case Finish(number):
                    channel.send(encode(streams[number].finish()))
                case Close(number):
                    streams.pop(number, None)
    except ChannelClosed:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
