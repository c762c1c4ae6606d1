"""Operators that make large results, imported by the workers that tests start."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import batchmill


@batchmill.operator("bulky", columns=["id"], expands=True, batch_size=8)
def bulky(
    rows: list[dict[str, Any]], *, size: int, large: int = -1, large_size: int = 0, kills: str = "", victims: int = 0
) -> list[Any]:
    """Makes 0 to 4 results of a row, each with a text of `size`; of the row `large`, one of `large_size`.

    kills: a folder. Its process is killed the first time that it meets a row whose id `victims` divides.
    """
    for row in rows:
        if victims and row["id"] % victims == 0 and _is_first(Path(kills) / str(row["id"])):
            os.kill(os.getpid(), signal.SIGKILL)
    return [results_of(row["id"], size, large, large_size) for row in rows]


def results_of(number: int, size: int, large: int = -1, large_size: int = 0) -> list[dict[str, Any]]:
    """What `bulky` makes of a row."""
    if number == large:
        return [{"piece": 0, "text": "x" * large_size}]
    return [{"piece": piece, "text": f"{number}.{piece} ".ljust(size, "x")} for piece in range(number % 5)]


@batchmill.operator("hesitant", columns=["id"], batch_size=8)
def hesitant(rows: list[dict[str, Any]], *, folder: str, every: int, size: int) -> list[Any]:
    """Makes a text of `size` of each row, but fails the first time that it is given a row whose id `every` divides."""
    for row in rows:
        if row["id"] % every == 0 and not (Path(folder) / str(row["id"])).exists():
            if len(rows) == 1:
                (Path(folder) / str(row["id"])).touch()
            raise ConnectionError(f"row {row['id']} is not in the mood")
    return [{"text": str(row["id"]).ljust(size, "x")} for row in rows]


def _is_first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
