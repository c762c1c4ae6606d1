"""A job submitted again over an output that an earlier one left unfinished."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidOutput, JobCancelled
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 3000
FREE = 400  # rows that need not wait at the gate: more than are dispatched before a shard is done
AT_WORK = 4 * FREE  # rows of the shards that two workers have at once: none has more than were done before


class Order:
    """A job that stops at a gate, and can be submitted again."""

    def __init__(self, client: batchmill.Client, folder: Path, form: str = "parquet") -> None:
        self.client = client
        self.gate = folder / "gate"
        self.output = folder / "out"
        self.source = folder / f"in.{form}"
        rows = [{"id": n} for n in range(ROWS)]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), self.source)
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self.source.write_bytes(gzip.compress(text) if form == "jsonl.gz" else text)

    def submit(self, **changes: Any) -> batchmill.Job:
        options: dict[str, Any] = {
            "source": self.source,
            "output": self.output,
            "params": {"gate": str(self.gate), "first": FREE},
        }
        return self.client.submit("gated", **options | changes)

    def leave_unfinished(self, **changes: Any) -> batchmill.Job:
        """Run the job until some of its shards are done and others are not begun, and cancel it."""
        job = self.submit(**changes)
        until(lambda: job.status().shards_done > 0, "a shard done")
        job.cancel()
        self.gate.touch()
        with pytest.raises(JobCancelled):
            job.wait(timeout=GRACE_S)
        return job

    def settled(self) -> list[int]:
        """The rows of the shards that the unfinished output has whole."""
        entries = json.loads(manifest_path(self.output).read_text())["rest"]["settled"].values()
        numbers = [[int(part) for part in entry.split()] for entry in entries]
        return [row for _, rows, dead, _, first in numbers for row in range(first, first + rows + dead)]

    def begun(self) -> list[int]:
        """The rows that the operator met, as often as it did."""
        lines = self.gate.with_name("gate.started").read_text().splitlines()
        return sorted(int(line.split()[0]) for line in lines)


@pytest.fixture(params=["parquet", pytest.param("jsonl", marks=pytest.mark.slow), "jsonl.gz"])
def order(client: batchmill.Client, tmp_path: Path, request: pytest.FixtureRequest) -> Order:
    """An order over files of each kind."""
    return Order(client, tmp_path, request.param)


def test_only_what_is_missing_is_done(order: Order) -> None:
    first = order.leave_unfinished()
    assert 64 <= first.status().rows_done < ROWS
    settled = order.settled()
    second = order.submit().wait(timeout=GRACE_S)
    status = second.status()
    assert (status.rows_done, status.resumed_from) == (ROWS, first.id)
    assert [row["id"] for row in second.results()] == list(range(ROWS))
    begun = order.begun()
    assert {begun.count(row) for row in settled} == {1}
    assert len(begun) <= ROWS + AT_WORK, "only rows of shards that were at work ran twice"
    manifest = json.loads(manifest_path(order.output).read_text())
    parts = {path.name for path in order.output.glob("part-*")}
    assert parts == {part["name"] for part in manifest["parts"]}
    assert manifest["rows"] == ROWS
    assert "rest" not in manifest


def test_what_is_not_the_same_is_refused_and_named(client: batchmill.Client, tmp_path: Path) -> None:
    order = Order(client, tmp_path)
    order.leave_unfinished()
    with pytest.raises(InvalidOutput, match="the parameter 'gate' was"):
        order.submit(params={"gate": str(tmp_path / "other"), "first": FREE})
    with pytest.raises(InvalidOutput, match="its format was parquet, now it is jsonl"):
        order.submit(output={"path": order.output, "format": "jsonl"})
    with pytest.raises(InvalidOutput, match="it passed all columns through, now it passes id"):
        order.submit(carry=["id"])
    pq.write_table(pa.table({"id": list(range(ROWS + 1))}), order.source)
    with pytest.raises(InvalidOutput, match=r"in\.parquet has changed since"):
        order.submit()
    assert not (order.output / "_batchmill.json").exists(), "a refused job lets the folder go"


def test_an_output_without_skipped_rows_is_not_resumed_with_them(client: batchmill.Client, tmp_path: Path) -> None:
    order = Order(client, tmp_path)
    order.leave_unfinished()
    with pytest.raises(InvalidOutput, match='`on_null` "skip"'):
        order.submit(on_null="skip")


def test_an_output_that_an_earlier_version_left_unfinished_is_refused(client: batchmill.Client, tmp_path: Path) -> None:
    order = Order(client, tmp_path)
    order.leave_unfinished()
    path = manifest_path(order.output)
    manifest = json.loads(path.read_text())
    assert manifest["rest"].pop("version") > 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(InvalidOutput, match=r"are of form 1; .* Finish it with the version that began it"):
        order.submit()


@pytest.mark.slow
def test_rows_that_were_sent_are_compared_by_their_content(client: batchmill.Client, tmp_path: Path) -> None:
    order = Order(client, tmp_path)
    rows = [{"id": n, "pad": "x" * 4000} for n in range(ROWS)]
    order.leave_unfinished(rows=rows, source=None)
    other = [{"id": n, "pad": "y" * 4000} for n in range(ROWS)]
    with pytest.raises(InvalidOutput, match="its input has changed"):
        order.submit(rows=other, source=None)
    job = order.submit(rows=rows, source=None).wait(timeout=GRACE_S)
    assert [row["id"] for row in job.results()] == list(range(ROWS))


def test_a_finished_output_is_not_made_again(client: batchmill.Client, tmp_path: Path) -> None:
    order = Order(client, tmp_path)
    order.gate.touch()
    job = order.submit().wait(timeout=GRACE_S)
    with pytest.raises(InvalidOutput, match=f"holds the finished results of job {job.id}"):
        order.submit()


def test_dead_rows_and_a_deleted_first_job_do_not_hinder(client: batchmill.Client, tmp_path: Path) -> None:
    order = Order(client, tmp_path)
    first = order.leave_unfinished()
    first.delete()
    assert order.submit().wait(timeout=GRACE_S).status().rows_done == ROWS


def test_decompressed_text_is_deleted_with_the_end_of_a_job_that_nobody_resumes(
    client: batchmill.Client, tmp_path: Path, service_folder: Path
) -> None:
    order = Order(client, tmp_path, "jsonl.gz")

    def staged(job: batchmill.Job) -> list[Path]:
        return list((service_folder / "blobs" / "jobs" / job.id / "staged").glob("*"))

    first = order.leave_unfinished()
    assert staged(first)
    second = order.submit().wait(timeout=GRACE_S)
    until(lambda: not staged(second), "the text of a completed job deleted")
    order.gate.unlink()
    third = order.leave_unfinished(output=None)
    until(lambda: not staged(third), "the text of a cancelled job without an output deleted")
    assert staged(first), "another job may resume it still"
