"""Whether a container is well: `healthy.py URL` ends with 0 if the page is there."""

from __future__ import annotations

import sys
import urllib.request

TIMEOUT_S = 4


def answers(url: str) -> bool:
    """Whether the page is there."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S):  # noqa: S310  # the image's own address
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1]) else 1)
