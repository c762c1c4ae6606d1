"""Operators that note every row they compute, one line a row in the file that their parameter `log` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import batchmill


def note(log: str, rows: list[dict[str, Any]]) -> None:
    """Leave a line for each row."""
    with Path(log).open("a") as file:
        file.writelines(f"{row['text']}\n" for row in rows)


def noted(log: Path) -> list[str]:
    """The rows that were computed so far."""
    return log.read_text().splitlines() if log.exists() else []


@batchmill.operator("tally", columns=["text"], batch_size=16)
class Tally:
    """The length of a text; null for an empty one, and none at all for one that begins with "bad"."""

    def __init__(self, *, log: str, factor: int = 1) -> None:
        self.log = log
        self.factor = factor

    def row_key(self, row: dict[str, Any]) -> str:
        text: str = row["text"]
        return text

    def infer(self, rows: list[dict[str, Any]]) -> list[Any]:
        note(self.log, rows)
        return [
            batchmill.RowError("a bad text")
            if row["text"].startswith("bad")
            else {"length": len(row["text"]) * self.factor or None}
            for row in rows
        ]


@batchmill.operator("tally_words", columns=["text"], batch_size=16, expands=True)
def tally_words(rows: list[dict[str, Any]], *, log: str) -> list[Any]:
    """A row for each word; rows are told apart by all their columns."""
    note(log, rows)
    return [[{"word": word} for word in row["text"].split()] for row in rows]


@batchmill.operator("tally_nothing", columns=["text"], batch_size=16)
def tally_nothing(rows: list[dict[str, Any]], *, log: str) -> list[Any]:
    """No column at all: a job is to carry one."""
    note(log, rows)
    return [{} for _ in rows]


@batchmill.operator("tally_by_chance", columns=["text"], cacheable=False)
def tally_by_chance(rows: list[dict[str, Any]], *, log: str) -> list[Any]:
    """Says that its results are no function of a row."""
    note(log, rows)
    return [{} for _ in rows]
