"""Operators of the chaos run: what they make of a row depends on the row alone, however often they fail before.

Every row that was computed leaves a line in a journal, whether or not its result is ever committed.
"""

from __future__ import annotations

import os
import random
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa

import batchmill

JOURNAL = "CHAOS_JOURNAL"  # the folder of the journals
SECONDS_A_ROW = 0.002
FLAKINESS = 0.3
SLOW_S = 3.0  # at most, for a slow row: once little and once much, so that either of two attempts is done first


def value_of(job: int, row: int) -> int:
    """What the operators make of a row."""
    return zlib.crc32(f"{job}/{row}".encode())


def pieces_of(row: int) -> int:
    """How many pieces are made of a row: none, one or two."""
    return row % 3


@batchmill.operator("chaos_rows", columns=["job", "id", "kind"], batch_size=16)
def chaos_rows(rows: list[dict[str, Any]]) -> list[Any]:
    """A value for each row."""
    return _work(rows)


@batchmill.operator("chaos_arrow", columns=["job", "id", "kind"], batch_format="arrow", batch_size=32)
def chaos_arrow(table: pa.Table) -> pa.Table:
    """The same in Arrow; it cannot refuse single rows."""
    return pa.table({"value": [result["value"] for result in _work(table.to_pylist())]})


@batchmill.operator("chaos_single", columns=["job", "id", "kind"], batch_size=1)
class ChaosSingle:
    """The same one by one, with a state of its own."""

    def __init__(self) -> None:
        self.device = ""

    def setup(self, device: str) -> None:
        self.device = device

    def infer(self, rows: list[dict[str, Any]]) -> list[Any]:
        assert self.device == "cpu"
        return _work(rows)


@batchmill.operator("chaos_pieces", columns=["id"], batch_size=64, expands=True)
def chaos_pieces(rows: list[dict[str, Any]]) -> list[Any]:
    """Some results for each row."""
    return [[{"piece": piece} for piece in range(pieces_of(row["id"]))] for row in rows]


@batchmill.operator("chaos_split", columns=["id", "kind"], batch_size=64, expands=True)
def chaos_split(rows: list[dict[str, Any]]) -> list[Any]:
    """The same, of which the first is what the row was, the others are plain."""
    return [
        [{"piece": piece, "kind": "plain" if piece else row["kind"]} for piece in range(pieces_of(row["id"]))]
        for row in rows
    ]


def _work(rows: list[dict[str, Any]]) -> list[Any]:
    for row in rows:
        _misbehave(row["kind"])
    time.sleep(SECONDS_A_ROW * len(rows))
    _note(rows)
    return [
        batchmill.RowError("not this one") if row["kind"] == "refused" else {"value": value_of(row["job"], row["id"])}
        for row in rows
    ]


def _misbehave(kind: str) -> None:
    match kind:
        case "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        case "poison":
            raise ValueError("this row is poison")
        case "slow":
            time.sleep(random.uniform(0, SLOW_S))
        case "flaky" if random.random() < FLAKINESS:
            raise ConnectionError("not in the mood")


def _note(rows: list[dict[str, Any]]) -> None:
    text = "".join(f"{row['job']} {row['id']} {row.get('piece', '')}\n" for row in rows)
    with (Path(os.environ[JOURNAL]) / f"{os.getpid()}").open("a") as journal:
        journal.write(text)
