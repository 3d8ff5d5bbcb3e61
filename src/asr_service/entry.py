"""Where the installed command begins.

Owns nothing but the way: `asr-service probe`, which is started every few seconds, and `asr-service live`, for which
somebody waits, go past everything that they do not need; all other commands go to `__main__`.
"""

import sys


def main() -> None:
    """The `asr-service` command."""
    if sys.argv[1:2] == ["probe"]:
        from asr_service.probe.command import main as probe

        probe(sys.argv[2:])
    elif sys.argv[1:2] == ["live"]:
        from asr_service.live.command import main as live

        live(sys.argv[2:])
    else:
        from asr_service.__main__ import main as commands

        commands()
