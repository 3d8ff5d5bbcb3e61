"""A child that says all kinds of things on stderr, and ends."""

import logging
import os
import sys
import warnings

if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, format=logging.BASIC_FORMAT, stream=sys.stderr)
    logging.captureWarnings(True)
    logging.getLogger("a.b").info("it works: %d", 3)
    warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    try:
        raise ValueError("cause")
    except ValueError:
        logging.getLogger("a").exception("failed")
    os.write(2, b"from C \xff\x1b[2J\r\x00\n" + b"x" * 20_000)
