"""The rows that are measured with: the same each time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK = 100_000


def table(rows: int) -> pa.Table:
    """`{id: int64, text: string}`, the texts 45 to 58 characters long."""
    return _part(0, rows)


def dicts(rows: int) -> list[dict[str, Any]]:
    """The same rows as dicts."""
    return [{"id": number, "text": _text(number)} for number in range(rows)]


def write_folder(folder: Path, rows: int, files: int) -> Path:
    """The same rows as a folder of Parquet files of about one size."""
    step = -(-rows // files)
    for first in range(0, rows, step):
        pq.write_table(_part(first, min(step, rows - first)), folder / f"rows-{first:08}.parquet")
    return folder


def write_file(folder: Path, rows: int, kind: Literal["parquet", "jsonl"]) -> Path:
    """The same rows as a file, written piece by piece."""
    path = folder / f"rows-{rows}.{kind}"
    if kind == "parquet":
        with pq.ParquetWriter(path, table(1).schema) as writer:
            for first in range(0, rows, CHUNK):
                writer.write_table(_part(first, min(CHUNK, rows - first)))
    else:
        with path.open("w") as file:
            file.writelines(_lines(rows))
    return path


def _part(first: int, rows: int) -> pa.Table:
    numbers = range(first, first + rows)
    return pa.table({"id": pa.array(numbers, pa.int64()), "text": [_text(number) for number in numbers]})


def _lines(rows: int) -> Iterator[str]:
    return (f'{{"id": {number}, "text": {json.dumps(_text(number))}}}\n' for number in range(rows))


def _text(number: int) -> str:
    words = "a text such as people have" if number % 2 else "a text of the usual length, one line"
    return f"row {number:08}: {words} {number * 7919 % 9973}"
