"""Damaged and missing results are computed again, and put in the place of what was there."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchmill.cli import main
from batchmill.errors import Conflict, DamagedData, InvalidRequest, InvalidSource, NotFound
from support.outputs import manifest_path
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import batchmill

ROWS = 400


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@dataclass(frozen=True)
class Places:
    """Where a job reads and writes."""

    folder: Path
    blobs: Path

    def source(self, form: str) -> Path:
        path, rows = self.folder / f"in.{form}", [{"id": n, "text": f"row {n}"} for n in range(ROWS)]
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=90)
        else:
            path.write_bytes(gzip.compress(text) if form == "jsonl.gz" else text)
        return path

    def new_params(self) -> dict[str, str]:
        """Parameters of which nothing is known yet, so that first shards are small."""
        return {"mark": str(self.folder)}

    def parts(self, job: batchmill.Job, *, is_output: bool) -> list[Path]:
        place = self.folder / "out" if is_output else self.blobs / "jobs" / job.id / "results" / "0"
        return sorted(place.glob("part-*"))


@pytest.fixture
def places(tmp_path: Path, service_folder: Path) -> Places:
    return Places(tmp_path, service_folder / "blobs")


OUTPUTS: dict[str, dict[str, Any] | None] = {
    "Parquet": {"path": "out", "format": "parquet"},
    "JSON Lines": {"path": "out", "format": "jsonl"},
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz"])
def test_parts_of_an_output_that_are_damaged_or_gone_are_computed_again(
    client: batchmill.Client, places: Places, output: str, form: str
) -> None:
    place = {**(OUTPUTS[output] or {}), "path": places.folder / "out"}
    job = client.submit("shout", source=places.source(form), params=places.new_params(), output=place).wait(
        timeout=GRACE_S
    )
    expected, parts = job.to_table().to_pylist(), places.parts(job, is_output=True)
    assert len(parts) > 3
    flip(parts[0])
    parts[2].unlink()
    with pytest.raises(DamagedData, match=f"rows 0 to .*batchmill redo {job.id}"):
        job.to_table()
    redo = job.redo().wait(timeout=GRACE_S)
    assert 0 < redo.status().rows_done < ROWS
    assert job.to_table().to_pylist() == expected
    status = job.status()
    assert (status.rows_done, status.rows_dead, status.rows_total) == (ROWS, 0, ROWS)
    manifest = json.loads(manifest_path(places.folder / "out").read_text())
    after = places.parts(job, is_output=True)
    assert [path.name for path in after] == [part["name"] for part in manifest["parts"]]
    assert {path.name for path in after} >= {path.name for path in (parts[1], parts[3])}, "the others are untouched"
    assert (len(after), manifest["rows"]) == (len(parts), ROWS)
    assert not list((places.blobs / "jobs" / job.id / "staged").glob("*"))
    with pytest.raises(InvalidRequest, match="damaged or missing"):
        job.redo()


MERGED: dict[str, dict[str, Any]] = {
    "one file": {"path": "out.parquet"},
    "files of a size": {"path": "out", "max_rows_per_file": 1000},
}


@pytest.mark.parametrize("output", MERGED)
@pytest.mark.parametrize("what", ["results", "output", "missing output"])
def test_an_output_that_is_merged_is_written_again(
    client: batchmill.Client, places: Places, output: str, what: str
) -> None:
    place = {**MERGED[output], "path": str(places.folder / MERGED[output]["path"])}
    job = client.submit("shout", source=places.source("parquet"), params=places.new_params(), output=place).wait(
        timeout=GRACE_S
    )
    expected = job.to_table()
    out = places.folder / MERGED[output]["path"]
    if what == "results":
        flip(min((places.blobs / "jobs" / job.id / "output").glob("part-*")))
    else:
        file = out if out.is_file() else min(out.iterdir())
        flip(file) if what == "output" else file.unlink()
    rows_done = job.redo().wait(timeout=GRACE_S).status().rows_done
    assert (rows_done > 0) == (what == "results")
    assert job.to_table().equals(expected)
    files = (
        [out] if out.suffix else [out / part["name"] for part in json.loads(manifest_path(out).read_text())["parts"]]
    )
    assert pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() == expected.to_pylist()
    assert out.suffix or sorted(out.iterdir()) == files
    with pytest.raises(InvalidRequest, match="damaged or missing"):
        job.redo()


DAMAGE: dict[str, Callable[[Path], object]] = {"altered": flip, "missing": lambda path: path.unlink()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_results_in_the_service_are_computed_again(
    client: batchmill.Client, places: Places, service_record: dict[str, str], damage: str
) -> None:
    rows = [{"id": n} for n in range(ROWS)]
    job = client.submit("wordy", rows, params={"nbytes": 30_000}).wait(timeout=GRACE_S)
    expected, parts = job.to_table(), places.parts(job, is_output=False)
    DAMAGE[damage](parts[1])
    with pytest.raises((DamagedData, NotFound)) as caught:
        job.to_table()
    shard = caught.value.details["shard"]
    with pytest.raises(InvalidRequest, match="damaged or missing"):
        job.redo(shards=["0"])
    options = ["--url", service_record["url"], "--token", service_record["token"], "--wait"]
    printed = CliRunner().invoke(main, ["redo", job.id, "--shard", shard, *options])
    assert (printed.exit_code, "new results for" in printed.output) == (0, True), printed.output
    assert job.to_table().equals(expected)


def test_rows_that_failed_before_and_that_fail_now_are_dead_letters(client: batchmill.Client, places: Places) -> None:
    cure = places.folder / "cure"
    params, rows = {"cure": str(cure)}, [{"id": n if n != 50 else -50} for n in range(ROWS)]
    job = client.submit("reluctant", rows, params=params, output=places.folder / "out").wait(timeout=GRACE_S)
    assert job.status().rows_dead == ROWS // 5
    first, *_ = places.parts(job, is_output=True)
    in_first = pq.read_metadata(first).num_rows
    flip(first)
    cure.touch()
    job.redo().wait(timeout=GRACE_S)
    dead = {letter.index: letter for letter in job.dead_letters()}
    assert min(dead) == 50
    assert dead[50].attempts > 1, "those of both jobs"
    found = job.to_table()["id"].to_pylist()
    assert found == [row["id"] for index, row in enumerate(rows) if index not in dead]
    assert len(found) > ROWS - ROWS // 5
    assert len([one for one in found if one < 50]) == 50
    status = job.status()
    assert (status.rows_done, status.rows_dead) == (len(found), len(dead))
    assert in_first > 0
    job.replay().wait(timeout=GRACE_S)
    assert [letter.index for letter in job.dead_letters()] == [50]
    assert len(job.to_table()) == ROWS - 1


def test_lines_that_cannot_be_read_keep_their_dead_letters(client: batchmill.Client, places: Places) -> None:
    path = places.source("jsonl")
    lines = path.read_text().splitlines()
    lines[3] = "{broken"
    path.write_text("\n".join(lines))
    source = {"path": path, "on_bad_line": "dead"}
    job = client.submit("shout", source=source, output=places.folder / "out").wait(timeout=GRACE_S)
    expected = job.to_table()
    letters = job.dead_letters()
    assert [letter.index for letter in letters] == [3]
    for part in places.parts(job, is_output=True):
        flip(part)
    job.redo().wait(timeout=GRACE_S)
    assert job.to_table().equals(expected)
    assert job.dead_letters() == letters


def test_damaged_dead_letters_are_made_again(client: batchmill.Client, places: Places) -> None:
    job = client.submit("picky", [{"id": n} for n in range(100)]).wait(timeout=GRACE_S)
    before = [(letter.index, letter.error_type) for letter in job.dead_letters()]
    for blob in (places.blobs / "jobs" / job.id / "dead").rglob("part-*"):
        flip(blob)
    with pytest.raises(DamagedData):
        job.dead_letters()
    job.redo().wait(timeout=GRACE_S)
    assert [(letter.index, letter.error_type) for letter in job.dead_letters()] == before
    assert [row["kept"] for row in job.results()] == [n for n in range(100) if n % 10 and n != 25]


def test_what_cannot_be_done_again_is_refused_with_the_reason(client: batchmill.Client, places: Places) -> None:
    gate = places.folder / "gate"
    running = client.submit("gated", [{"id": 1}], params={"gate": str(gate)})
    with pytest.raises(Conflict, match="is running"):
        running.redo()
    gate.touch()
    running.wait(timeout=GRACE_S)
    path = places.source("jsonl")
    job = client.submit("shout", source=path, output=places.folder / "out").wait(timeout=GRACE_S)
    for part in places.parts(job, is_output=True):
        part.unlink()
    path.write_text(path.read_text().replace("row", "other row"))
    with pytest.raises(InvalidSource, match=r"in\.jsonl"):
        job.redo()
    with pytest.raises(InvalidRequest, match="redo: shards"):
        job.redo(shards=["../x"])
