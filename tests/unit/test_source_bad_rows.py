"""Lines and files that cannot be read: listed, and all others read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.sources.describing import scan
from support.source_reading import read_with_faults, refusal, written


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("ending", "good", "bad", "reason"),
    [
        ("jsonl", '{"id": %d, "text": "x"}\n', "oops", "this is no JSON object"),
        ("jsonl", '{"id": %d, "text": "x"}\n', '{"id": [1]}', "column 'id' holds list"),
        ("csv", "%d,x\n", "1,2,3", "expected 2 values (id, text), got 3"),
        ("csv", "%d,x\n", 'q,"a"b', "text follows the quote"),
    ],
)
def test_lines_that_cannot_be_read_are_listed_and_all_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, ending: str, good: str, bad: str, reason: str
) -> None:
    if large:
        monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 10)
        monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 100)
    faulty = {3, 700, 701, 999}
    header = "id,text\n" if ending == "csv" else ""
    lines = [f"{bad}\n" if number in faulty else good % number for number in range(1000)]
    path = written(tmp_path, f"a.{ending}", header + "".join(lines))
    assert reason in refusal(tmp_path, path)
    found = read_with_faults(tmp_path, path, on_bad_line="dead")
    assert [one.place for one in found.bad] == sorted(faulty)
    assert [one.line for one in found.bad] == [number + 1 + bool(header) for number in sorted(faulty)]
    assert {one.text for one in found.bad} == {bad}
    assert all(reason in one.reason for one in found.bad)
    expected = [None if number in faulty else number for number in range(1000)]
    assert found.table["id"].to_pylist() == expected


@pytest.mark.parametrize("ending", ["parquet", "jsonl.gz", "csv.gz", "arrow"])
def test_one_unreadable_file_of_many_is_one_bad_row(tmp_path: Path, ending: str) -> None:
    written(tmp_path, f"d/b.{ending}", b"damaged")
    for name, first in (("a", 0), ("c", 10)):
        table = pa.table({"id": range(first, first + 3)})
        path = tmp_path / f"d/{name}.{ending}"
        if ending == "parquet":
            pq.write_table(table, path)
        elif ending == "arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
        else:
            lines = [json.dumps(row) for row in table.to_pylist()]
            lines = ["id", *map(str, table["id"].to_pylist())] if ending == "csv.gz" else lines
            with pa.CompressedOutputStream(str(path), "gzip") as stream:
                stream.write(("\n".join(lines) + "\n").encode())
    assert f"b.{ending} cannot be read" in refusal(tmp_path, tmp_path / "d")
    found = read_with_faults(tmp_path, tmp_path / "d", on_bad_line="dead")
    assert found.table["id"].to_pylist() == [0, 1, 2, None, 10, 11, 12]
    assert [(one.place, Path(one.file).name) for one in found.bad] == [(3, f"b.{ending}")]
