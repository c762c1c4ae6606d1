"""The operators of the recovery benchmark; they write to a journal which process ran which row."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import batchmill

HELD_S = 120.0


def hold(journal: str) -> None:
    """Note the process; whoever is the first here then holds on, far longer than it will live."""
    with Path(journal).open("a+") as file:
        file.write(f"{os.getpid()}\n")
        file.flush()
        file.seek(0)
        is_first = len(file.readlines()) == 1
    if is_first:
        time.sleep(HELD_S)


@batchmill.operator("bench_hold", columns=["id"], batch_size=1)
def bench_hold(rows: list[dict[str, Any]], *, journal: str) -> list[Any]:
    """`hold`, as an operator."""
    hold(journal)
    return [{} for _ in rows]


@batchmill.operator("bench_count", columns=["id"], batch_size=16)
def bench_count(rows: list[dict[str, Any]], *, journal: str, seconds_a_row: float) -> list[Any]:
    """Takes its time, then notes each row it has computed."""
    time.sleep(seconds_a_row * len(rows))
    with Path(journal).open("a") as file:
        file.write("".join(f"{row['id']}\n" for row in rows))
    return [{} for _ in rows]
