"""Operators for the test of the compose stack, mounted into its workers."""

from __future__ import annotations

import socket
import time
from typing import Any

import batchmill


@batchmill.operator("plod", columns=["id"], batch_size=1)
def plod(rows: list[dict[str, Any]], *, seconds: float = 0.1) -> list[Any]:
    """Takes its time over each row, and says where it was run."""
    time.sleep(seconds)
    return [{"square": row["id"] ** 2, "host": socket.gethostname()} for row in rows]
