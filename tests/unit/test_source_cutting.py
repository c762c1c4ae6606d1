"""Whatever the format and however it is cut: reading the pieces gives back all rows, in order."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.jobs.files import FileSource
from batchmill.sources import End, InlineSource, InputSplit, RowCount, Source, SourceDescription, describe, open_source
from batchmill.sources.text import text_ranges
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

LINE_FORMATS = ["jsonl", "csv", "txt"]
QUICK = ("parquet", "csv", "jsonl.gz")  # of each way to read one
ENDINGS = ["parquet", "arrow", "feather", *(f"{kind}{codec}" for kind in LINE_FORMATS for codec in ("", ".gz", ".zst"))]
QUICK_AND_SLOW = [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in ENDINGS]
LOCATIONS = Locations(UNRESTRICTED)

words = st.text(st.sampled_from('ab ",\n\r\té€😀{}[]\\'), max_size=12)
rows = st.fixed_dictionaries({"id": st.integers(-(2**62), 2**62), "text": words, "score": st.floats(-1e6, 1e6)})
files_of_rows = st.lists(st.lists(rows, max_size=14), min_size=1, max_size=3)


class Layout:
    """How a test's files are laid out, beside their rows."""

    def __init__(self, group_rows: int, line_end: str, blank_every: int, last_line_end: bool) -> None:
        self.group_rows = group_rows
        self.line_end = line_end
        self.blank_every = blank_every
        self.last_line_end = last_line_end

    def __repr__(self) -> str:
        return f"Layout({self.group_rows}, {self.line_end!r}, {self.blank_every}, {self.last_line_end})"


layouts = st.builds(Layout, st.integers(1, 17), st.sampled_from(["\n", "\r\n"]), st.integers(0, 5), st.booleans())


def write(path: Path, rows: list[dict[str, Any]], layout: Layout) -> list[dict[str, Any]]:
    """Write rows in the format of the path's ending. Returns what reading should give."""
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("score", pa.float64())])
    table = pa.Table.from_pylist(rows, schema)
    kind = path.name.split(".")[1]
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=layout.group_rows)
        return rows
    if kind == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table, max_chunksize=layout.group_rows)
        return rows
    if kind == "feather":
        pyarrow.feather.write_feather(table, str(path), compression="lz4", chunksize=layout.group_rows)
        return rows
    return write_lines(path, kind, rows, layout)


def write_lines(path: Path, kind: str, rows: list[dict[str, Any]], layout: Layout) -> list[dict[str, Any]]:
    if kind == "txt":
        rows = [{"text": row["text"].replace("\n", " ").replace("\r", " ")} for row in rows]
        lines = [row["text"] for row in rows]
    elif kind == "csv":
        lines = [csv_line(["id", "text", "score"]), *(csv_line([row["id"], row["text"], row["score"]]) for row in rows)]
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if kind != "txt" and layout.blank_every:
        lines = [line for n, row in enumerate(lines) for line in ([row, ""] if n % layout.blank_every == 0 else [row])]
    text = "".join(line + layout.line_end for line in lines)
    if not layout.last_line_end and not (kind == "txt" and lines and not lines[-1]):
        text = text.removesuffix(layout.line_end)
    path.write_bytes(packed(text.encode(), path.suffix))
    return rows


def csv_line(values: list[Any]) -> str:
    """One CSV record without its line end; text is always quoted, so that blank values stand."""
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="").writerow(values)
    return out.getvalue()


def packed(data: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(data)
    return bytes(pa.compress(data, codec="zstd", asbytes=True)) if ending == ".zst" else data


def open_again(description: SourceDescription, blobs: BlobStore) -> Source:
    """The source as another process would open it."""
    return open_source(SourceDescription.from_json(description.to_json()), LOCATIONS, blobs, "jobs/job-1/staged")


def check_cutting(description: SourceDescription, blobs: BlobStore, expected: list[Any], data: Any) -> None:
    source = open_again(description, blobs)
    found: list[Any] = []
    cursor = ""
    with source.splitter() as splitter:
        while True:
            limits = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 2000)))
            split = splitter.next_split(*limits)
            resumed = open_again(description, blobs)
            with resumed.splitter(cursor) as other:
                assert other.next_split(*limits) == split
            if not isinstance(split, InputSplit):
                break
            check_split(split, *limits)
            table = resumed.read(split.slices)
            assert table.schema.equals(description.arrow_schema, check_metadata=True)
            assert table.num_rows == split.rows
            found += table.to_pylist()
            cursor = split.cursor
        assert split == splitter.next_split(1, 1) == End()
    assert found == expected
    assert source.count(cursor) == RowCount(len(expected), exact=True)


def check_split(split: InputSplit, max_rows: int, max_bytes: int) -> None:
    assert 1 <= split.rows <= max_rows
    assert split.rows == sum(part.rows for part in split.slices)
    assert split.bytes <= max_bytes + 1 or split.rows == 1


@pytest.mark.parametrize("ending", QUICK_AND_SLOW)
@settings(max_examples=30, deadline=None)
@given(batches=files_of_rows, layout=layouts, data=st.data(), block=st.sampled_from([4, 23, 190, 1 << 20]))
def test_any_cutting_resumed_anywhere_gives_all_rows_in_order(
    ending: str, batches: list[list[dict[str, Any]]], layout: Layout, data: Any, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(text_ranges, "LOCAL_BLOCK_BYTES", block)
        expected = []
        for number, rows in enumerate(batches):
            expected += write(Path(folder, f"part-{number}.{ending}"), rows, layout)
        description = describe(FileSource(path=folder), LOCATIONS)
        assert description.rows == len(expected)
        check_cutting(description, BlobStore.open(f"{folder}/_blobs", LOCATIONS), expected, data)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(rows, max_size=60), data=st.data())
def test_inline_rows_are_cut_and_read_back(rows: list[dict[str, Any]], data: Any) -> None:
    table = pa.Table.from_pylist(rows, pa.schema([("id", pa.int64()), ("text", pa.string()), ("score", pa.float64())]))
    source = InlineSource(table)
    found, cursor = [], ""
    limits = st.tuples(st.integers(1, 20), st.integers(1, 500))
    while isinstance(split := source.splitter(cursor).next_split(*data.draw(limits)), InputSplit):
        assert source.count(cursor).rows == len(rows)
        found += InlineSource(table).read(split.slices).to_pylist()
        cursor = split.cursor
    assert split == End()
    assert found == rows
    assert source.read(()).schema == table.schema
