"""Where the installed command begins.

Owns nothing but the way: `asr-service probe`, which is started every few seconds, goes past everything that it does not
need; all other commands go to `__main__`.
"""

import sys


def main() -> None:
    """The `asr-service` command."""
    if sys.argv[1:2] == ["probe"]:
        from asr_service.probe.command import main as probe

        probe(sys.argv[2:])
    else:
        from asr_service.__main__ import main as commands

        commands()
