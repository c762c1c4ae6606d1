"""Damaged results are never served as rows: the error names them, and the others are still there."""

from __future__ import annotations

import http.client
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import xxhash
from click.testing import CliRunner

import batchmill
from batchmill.cli import main
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 300
_lengths = itertools.count(30_000)


def new_params() -> dict[str, int]:
    """Parameters of which nothing is known yet, so that first shards are small. A shard's results are in a blob."""
    return {"nbytes": next(_lengths)}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "altered": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@dataclass(frozen=True)
class Reader:
    """Reads the pages of a job over HTTP."""

    record: dict[str, str]

    def page(self, job_id: str, cursor: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.record["url"]).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {self.record['token']}", "Accept": "application/x-ndjson"}
        try:
            connection.request("GET", f"/v1/jobs/{job_id}/results?cursor={cursor}", headers=headers)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def read(self, job_id: str) -> tuple[list[int], list[dict[str, Any]]]:
        """All rows that can be read, by their ids, and the errors in between."""
        ids: list[int] = []
        errors: list[dict[str, Any]] = []
        cursor, at_end = "", False
        while not at_end:
            status, headers, body = self.page(job_id, cursor)
            if status != 200:
                errors.append(json.loads(body)["error"])
                cursor = errors[-1]["details"]["next_cursor"]
                continue
            ids += [json.loads(line)["id"] for line in body.splitlines()]
            cursor, at_end = headers["batchmill-next-cursor"], headers["batchmill-end"] == "true"
        return ids, errors


def test_a_reader_that_says_so_gets_everything_but_what_is_damaged(
    client: batchmill.Client, service_folder: Path, service_record: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"id": n} for n in range(ROWS)]
    job = client.submit("wordy", rows=rows, params=new_params()).wait(timeout=GRACE_S)
    parts = sorted((service_folder / "blobs" / "jobs" / job.id / "results" / "0").glob("part-*"))
    flip(parts[0])
    parts[-1].unlink()
    errors: list[Any] = []
    found = job.to_table(on_damage=errors.append)["id"].to_pylist()
    lost = [n for error in errors for n in range(error.details["first_row"], error.details["last_row"] + 1)]
    assert found == [n for n in range(ROWS) if n not in lost]
    assert [type(error) for error in errors] == [batchmill.errors.DamagedData, batchmill.NotFound]
    assert (lost[0], lost[-1]) == (0, ROWS - 1)
    assert [row["id"] for row in job.results(on_damage=lambda _: None)] == found
    options = ["--skip-damaged", "--url", service_record["url"], "--token", service_record["token"]]
    printed = CliRunner().invoke(main, ["results", job.id, "-o", str(tmp_path / "rows.jsonl"), *options])
    assert [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == found
    assert (printed.exit_code, printed.output.count("cannot be read")) == (1, 2)


OUTPUTS: dict[str, dict[str, Any] | None] = {
    "no output": None,
    "Parquet": {"path": "out", "format": "parquet"},
    "JSON Lines": {"path": "out", "format": "jsonl"},
    "Arrow": {"path": "out", "format": "arrow"},
    "files of a size": {"path": "out", "max_rows_per_file": 1000},
    "one file": {"path": "out.parquet"},
}
DAMAGED = [
    *(("no output", damage) for damage in DAMAGE),
    *((output, "altered") for output in OUTPUTS if output != "no output"),
    *(("Parquet", "cut short"), ("JSON Lines", "empty"), ("Parquet", "missing")),
]


@dataclass(frozen=True)
class Done:
    """A completed job, and the files that its results are read from."""

    job: batchmill.Job
    parts: list[Path]


@pytest.fixture
def run_job(client: batchmill.Client, service_folder: Path, tmp_path: Path) -> Callable[[str], Done]:
    """Runs a job with one of `OUTPUTS`."""

    def run(output: str) -> Done:
        rows, spec = [{"id": n} for n in range(ROWS)], OUTPUTS[output]
        place = None if spec is None else spec | {"path": str(tmp_path / spec["path"])}
        job = client.submit("wordy", rows=rows, params=new_params(), output=place).wait(timeout=GRACE_S)
        is_kept = spec is None or spec["path"] != "out" or "max_rows_per_file" in spec
        kept = service_folder / "blobs" / "jobs" / job.id / ("results/0" if spec is None else "output")
        parts = sorted((kept if is_kept else tmp_path / "out").glob("part-*"))
        assert len(parts) > 3
        return Done(job, parts)

    return run


@pytest.mark.parametrize(("output", "damage"), DAMAGED)
def test_all_but_the_damaged_part_is_served_and_that_one_named(
    run_job: Callable[[str], Done], service_record: dict[str, str], output: str, damage: str
) -> None:
    done = run_job(output)
    job, parts = done.job, done.parts
    for part in (parts[0], parts[2]):
        DAMAGE[damage](part)
    ids, errors = Reader(service_record).read(job.id)
    lost = {row for error in errors for row in range(error["details"]["first_row"], error["details"]["last_row"] + 1)}
    assert ids == [n for n in range(ROWS) if n not in lost]
    assert [error["details"]["path"].rpartition("/")[2] for error in errors] == [parts[0].name, parts[2].name]
    assert {error["code"] for error in errors} == {"not_found" if damage == "missing" else "damaged_data"}
    kind = batchmill.NotFound if damage == "missing" else batchmill.StorageError
    with pytest.raises(kind, match=rf"the results of the rows 0 to \d+ of {job.id} \(shard 0\) cannot be read"):
        list(job.results())


@pytest.mark.parametrize("output", [output for output in OUTPUTS if output not in ("no output", "one file")])
def test_a_manifest_has_the_size_and_the_checksum_of_every_file(
    run_job: Callable[[str], Done], tmp_path: Path, output: str
) -> None:
    run_job(output)
    listed = json.loads(manifest_path(tmp_path / "out").read_text())["parts"]
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {part["name"]: (part["bytes"], part["xxh3"]) for part in listed} == {
        name: (len(data), xxhash.xxh3_64_hexdigest(data)) for name, data in found.items()
    }


def test_a_damaged_part_that_a_job_resumes_is_noticed_although_the_earlier_job_is_deleted(
    client: batchmill.Client, tmp_path: Path
) -> None:
    gate, rows = tmp_path / "gate", [{"id": n} for n in range(500)]
    options: dict[str, Any] = {"params": {"gate": str(gate), "first": 400}, "output": tmp_path / "out"}
    first = client.submit("gated", rows, **options)
    until(lambda: first.status().shards_done > 0, "a shard done")
    first.cancel()
    gate.touch()
    with pytest.raises(batchmill.JobCancelled):
        first.wait(timeout=GRACE_S)
    first.delete()
    for part in (tmp_path / "out").glob("part-*"):  # one may be of an attempt that was lost
        flip(part)
    second = client.submit("gated", rows, **options).wait(timeout=GRACE_S)
    with pytest.raises(batchmill.errors.DamagedData, match=rf"rows 0 to \d+ of {second.id}.*part-\S+ is damaged"):
        second.to_table()


def test_a_replay_does_not_merge_damaged_results(client: batchmill.Client, tmp_path: Path) -> None:
    cure, rows = tmp_path / "cure", [{"id": number} for number in range(200)]
    job = client.submit("reluctant", rows, params={"cure": str(cure)}, output=tmp_path / "out").wait(timeout=GRACE_S)
    part = min((tmp_path / "out").glob("part-*"))
    intact = part.read_bytes()
    flip(part)
    cure.touch()
    replay = job.replay()
    until(lambda: any("is damaged" in line.message for line in replay.log()), "the refusal")
    assert job.status().rows_dead == 40
    part.write_bytes(intact)
    replay.wait(timeout=GRACE_S)
    assert job.to_table()["id"].to_pylist() == list(range(200))
