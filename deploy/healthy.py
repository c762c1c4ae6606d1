"""Whether a container is well: `healthy.py URL` asks for a page, `healthy.py MODULE` looks for its process."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

TIMEOUT_S = 4


def answers(url: str) -> bool:
    """Whether the page is there."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # noqa: S310  # the image's own address
            return True
    except OSError:
        return False


def runs(module: str) -> bool:
    """Whether some process of this container runs `python -m MODULE`."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"-m" in words and module.encode() in words:
            return True
    return False


if __name__ == "__main__":
    asked = sys.argv[1]
    sys.exit(0 if (answers(asked) if "://" in asked else runs(asked)) else 1)
