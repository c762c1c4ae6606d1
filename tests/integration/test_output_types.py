"""Outputs of all kinds of columns: one schema each, also without rows, or a clear refusal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidOutput, InvalidRows, InvalidSource, JobFailed
from support.outputs import manifest_path

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS_PER_FILE = 500


def _files(folder: Path, *kinds: str) -> str:
    """Write one file of rows for each kind of result, so that each is a shard of its own; returns their pattern."""
    folder.mkdir()
    for number, kind in enumerate(kinds):
        rows = pa.table(
            {"id": range(number * ROWS_PER_FILE, (number + 1) * ROWS_PER_FILE), "as": [kind] * ROWS_PER_FILE}
        )
        pq.write_table(rows, folder / f"part-{number}.parquet")
    return f"{folder}/*.parquet"


def _run(client: batchmill.Client, operator: str, source: Any, output: Path, form: str = "parquet") -> Any:
    job = client.submit(operator, source=source, output={"path": str(output), "format": form})
    job.wait()
    return job


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_parts_whose_types_differ_are_widened_to_one_schema(
    client: batchmill.Client, tmp_path: Path, form: str
) -> None:
    source = _files(tmp_path / "in", "none", "int", "float", "int")
    job = _run(client, "drift", source, tmp_path / "out", form)
    expected = [value for value in (None, 1.0, 0.5, 1.0) for _ in range(ROWS_PER_FILE)]
    manifest = json.loads(manifest_path(tmp_path / "out").read_text())
    columns = {column["name"]: column["type"] for column in manifest["columns"]}
    assert columns == {"id": "int64", "as": "string", "value": "double", "extra": "bool"}
    table = job.to_table()
    assert table["id"].to_pylist() == list(range(4 * ROWS_PER_FILE))
    assert table["value"].to_pylist() == expected
    if form == "parquet":
        names = [part["name"] for part in manifest["parts"]]
        schemas = {str(pq.read_schema(tmp_path / "out" / name)) for name in names}
        assert len(names) > 1
        assert len(schemas) == 1, "one schema for all parts"
        found = pq.read_table(tmp_path / "out").sort_by("id")
        assert found["value"].to_pylist() == expected
        assert found.column_names == list(columns)


def test_parts_whose_types_have_nothing_in_common_fail_the_job_with_both_named(
    client: batchmill.Client, tmp_path: Path
) -> None:
    source = _files(tmp_path / "in", "int", "text")
    job = client.submit("drift", source=source, output={"path": str(tmp_path / "out")})
    with pytest.raises(JobFailed, match=r"column 'value' is (string|int64) in some rows and (string|int64) in others"):
        job.wait()


def test_structs_get_the_fields_of_all_rows(client: batchmill.Client, tmp_path: Path) -> None:
    _run(client, "drift", _files(tmp_path / "in", "nested", "wider"), tmp_path / "out")
    values = pq.read_table(tmp_path / "out").sort_by("id")["value"].to_pylist()
    assert values[0] == {"a": 1, "b": None}
    assert values[-1] == {"a": None, "b": "x"}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_job_without_rows_keeps_the_columns_of_its_input(client: batchmill.Client, tmp_path: Path, form: str) -> None:
    schema = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
    pq.write_table(schema.empty_table(), tmp_path / "none.parquet")
    job = _run(client, "echo", str(tmp_path / "none.parquet"), tmp_path / "out", form)
    assert job.to_table().schema == schema
    manifest = json.loads(manifest_path(tmp_path / "out").read_text())
    assert [column["name"] for column in manifest["columns"]] == schema.names
    assert [part["rows"] for part in manifest["parts"]] == [0]
    if form == "parquet":
        assert pq.read_table(tmp_path / "out").schema == schema


def test_results_without_an_output_keep_their_columns_too(client: batchmill.Client) -> None:
    schema = pa.schema([("id", pa.int64())])
    job = client.submit("echo", schema.empty_table())
    assert job.to_table().schema == schema


def test_a_type_that_the_output_cannot_hold_is_refused_at_submit(client: batchmill.Client, tmp_path: Path) -> None:
    rows = pa.table({"id": [1], "as": ["int"], "thing": pa.array([{}], pa.struct([]))})
    with pytest.raises(InvalidOutput, match="column 'thing' is struct<>, which parquet cannot hold"):
        client.submit("echo", rows, output={"path": str(tmp_path / "out")})
    job = client.submit("drift", rows, output={"path": str(tmp_path / "out")}, carry=["id"])
    assert list(job.results()) == [{"id": 1, "value": 1}]
    job = client.submit("echo", rows, output={"path": str(tmp_path / "lines"), "format": "jsonl"})
    assert list(job.results()) == [{"id": 1, "as": "int", "thing": {}}]


def test_a_type_that_nothing_can_hold_is_refused_with_file_column_and_type(
    client: batchmill.Client, tmp_path: Path
) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["a"])])
    path = tmp_path / "odd.arrow"
    table = pa.table({"id": [1], "odd": union})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InvalidSource, match=r"odd.arrow has a column 'odd' of the type sparse_union"):
        client.submit("echo", source=str(path))
    with pytest.raises(InvalidRows, match="column 'odd'"):
        client.submit("echo", table)
    job = client.submit("echo", source={"path": str(path), "columns": ["id"]})
    assert list(job.results()) == [{"id": 1}]


def test_names_that_are_batchmills_own_are_refused(client: batchmill.Client, tmp_path: Path) -> None:
    name = "__batchmill_letter__"
    with pytest.raises(InvalidRows, match=name):
        client.submit("echo", [{name: 1}])
    pq.write_table(pa.table({"id": [1], name: [1]}), tmp_path / "rows.parquet")
    with pytest.raises(InvalidRows, match=name):
        client.submit("echo", source=str(tmp_path / "rows.parquet"))
    with pytest.raises(JobFailed, match="__batchmill_row__"):
        client.submit("reserving", [{"id": 1}]).wait()


def test_categories_that_differ_from_chunk_to_chunk_come_back(client: batchmill.Client) -> None:
    words = [pa.array([f"w{n}", "same", None]).dictionary_encode() for n in range(40)]
    job = client.submit("echo", [pa.table({"id": [n] * 3, "word": word}) for n, word in enumerate(words)])
    assert [row["word"] for row in job.results()] == [value for word in words for value in word.to_pylist()]
    nested = pa.table({"tags": pa.array([["a", "b"], None], pa.list_(pa.dictionary(pa.int8(), pa.string())))})
    assert client.submit("echo", nested).to_table()["tags"].to_pylist() == [["a", "b"], None]
