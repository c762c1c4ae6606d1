"""An output folder whose files have a size that its user chose: every row once and in order, whatever happens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from batchmill.errors import JobCancelled
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 2600
READ: dict[str, Any] = {
    "parquet": pq.read_table,
    "jsonl": pyarrow.json.read_json,
    "arrow": lambda path: pa.ipc.open_file(str(path)).read_all(),
}


def read(folder: Path) -> list[pa.Table]:
    """The files that the manifest lists, which must be all that there are."""
    manifest = json.loads(manifest_path(folder).read_text())
    assert sorted(path.name for path in folder.iterdir()) == [part["name"] for part in manifest["parts"]]
    tables = [READ[manifest["format"]](folder / part["name"]) for part in manifest["parts"]]
    assert [table.num_rows for table in tables] == [part["rows"] for part in manifest["parts"]]
    assert [(folder / part["name"]).stat().st_size for part in manifest["parts"]] == [
        part["bytes"] for part in manifest["parts"]
    ]
    return tables


def ids(tables: list[pa.Table]) -> list[int]:
    return [number for table in tables for number in table["id"].to_pylist()]


@pytest.mark.parametrize("form", READ)
def test_files_have_the_rows_that_were_asked_for(client: batchmill.Client, tmp_path: Path, form: str) -> None:
    output = {"path": tmp_path / "out", "format": form, "max_rows_per_file": 1000}
    rows = [{"id": number} for number in range(ROWS)]
    job = client.submit("echo", rows, output=output).wait(timeout=GRACE_S)
    tables = read(tmp_path / "out")
    assert [table.num_rows for table in tables] == [1000, 1000, 600]
    assert ids(tables) == job.to_table()["id"].to_pylist() == list(range(ROWS))


def test_files_have_about_the_bytes_that_were_asked_for(client: batchmill.Client, tmp_path: Path) -> None:
    vectors = np.random.default_rng(7).random((ROWS, 256), dtype=np.float32)
    table = pa.table({"id": range(ROWS), "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 256)})
    output = {"path": tmp_path / "out", "target_file_bytes": 1 << 20}
    client.submit("echo", table, output=output).wait(timeout=GRACE_S)
    tables, sizes = read(tmp_path / "out"), [path.stat().st_size for path in sorted((tmp_path / "out").iterdir())]
    assert pa.concat_tables(tables)["vector"].combine_chunks().flatten().to_numpy().tolist() == vectors.ravel().tolist()
    assert all(0.7 < size / (1 << 20) < 1.3 for size in sizes[:-1]), sizes
    assert len(sizes) > 1


def test_a_replay_writes_the_files_again(client: batchmill.Client, tmp_path: Path) -> None:
    cure, output = tmp_path / "cure", {"path": tmp_path / "out", "max_rows_per_file": 1000}
    rows = [{"id": number} for number in range(ROWS)]
    job = client.submit("reluctant", rows, params={"cure": str(cure)}, output=output).wait(timeout=GRACE_S)
    assert ids(read(tmp_path / "out")) == [number for number in range(ROWS) if number % 5]
    cure.touch()
    job.replay().wait(timeout=GRACE_S)
    assert [table.num_rows for table in read(tmp_path / "out")] == [1000, 1000, 600]
    assert ids(read(tmp_path / "out")) == job.to_table()["id"].to_pylist() == list(range(ROWS))


@pytest.mark.parametrize(
    ("sized_first", "form"),
    [
        (True, "parquet"),
        (False, "jsonl"),
        pytest.param(False, "parquet", marks=pytest.mark.slow),
        pytest.param(True, "jsonl", marks=pytest.mark.slow),
    ],
)
def test_an_unfinished_output_is_resumed_whether_a_size_was_chosen_before_or_not(
    client: batchmill.Client, tmp_path: Path, form: str, *, sized_first: bool
) -> None:
    gate, out = tmp_path / "gate", tmp_path / "out"
    sized = {"path": out, "format": form, "max_rows_per_file": 1000}
    plain = {"path": out, "format": form}
    options: dict[str, Any] = {"params": {"gate": str(gate), "first": 400}}
    rows = [{"id": number} for number in range(ROWS)]
    first = client.submit("gated", rows, output=sized if sized_first else plain, **options)
    until(lambda: first.status().shards_done > 0, "a shard done")
    first.cancel()
    gate.touch()
    with pytest.raises(JobCancelled):
        first.wait(timeout=GRACE_S)
    assert 0 < len(ids(read(out))) < ROWS
    first.delete()
    second = client.submit("gated", rows, output=plain if sized_first else sized, **options).wait(timeout=GRACE_S)
    assert second.status().resumed_from == first.id
    assert ids(read(out)) == second.to_table()["id"].to_pylist() == list(range(ROWS))
    assert sized_first or [table.num_rows for table in read(out)] == [1000, 1000, 600]


def test_no_rows_are_one_file_with_their_columns(client: batchmill.Client, tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64())])
    output = {"path": tmp_path / "out", "max_rows_per_file": 1000}
    client.submit("echo", schema.empty_table(), output=output).wait(timeout=GRACE_S)
    assert [table.schema for table in read(tmp_path / "out")] == [schema]
