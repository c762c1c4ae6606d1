"""The seed of each row: from the job's seed and the row's path, so that neither the batch nor the worker matters."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.columns.lineage import Path

_BITS = 31  # what every engine takes


def row_seed(seed: int, path: Path, failures: int = 0) -> int:
    """Return the seed of a row. failures: how often it failed before; each time it gets another seed."""
    text = f"{seed}|{'.'.join(map(str, path))}|{failures}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> (32 - _BITS)
