"""A sink's folder: taken for one job, safe against late and foreign writers, and closed by its manifest."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batchmill.errors import InvalidOutput, NotFound, StaleToken, StorageError
from batchmill.job import JobState, OutputSpec
from batchmill.shard import ShardId
from batchmill.sinks import MANIFEST, MARKER, Column, Manifest, ManifestPart, Part, Sink, columns_of, open_sink
from batchmill.sinks.parts import part_format
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

LOCATIONS = Locations(UNRESTRICTED)
TABLE = pa.table({"id": [1, 2]})


def output_sink(folder: Path, job: str = "job-1", form: Any = "parquet") -> Sink:
    blobs = BlobStore(LOCATIONS.resolve("/nowhere"))
    return open_sink(OutputSpec(path=str(folder), format=form), job, blobs, LOCATIONS)


def manifest(*parts: Part, job: str = "job-1", **changes: Any) -> Manifest:
    listed = tuple(
        ManifestPart(name=part.name, rows=part.rows, bytes=part.bytes, shard=str(int(part.name[5:13])))
        for part in parts
    )
    fields = {
        "job": job,
        "state": JobState.COMPLETED,
        "operator": "echo",
        "params": {"model": "m"},
        "format": "parquet",
        "rows": sum(part.rows for part in parts),
        "columns": columns_of(TABLE.schema),
        "parts": listed,
        "created_at": 1.5,
        "finished_at": 2.5,
    }
    return Manifest(**(fields | changes))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_job_without_an_output_writes_arrow_files_into_the_blob_store(tmp_path: Path) -> None:
    blobs = BlobStore.open(str(tmp_path), LOCATIONS)
    sink = open_sink(None, "job-1", blobs, LOCATIONS)
    sink.prepare()
    part = sink.write(ShardId((17,)), 2, TABLE)
    assert blobs.list() == ["jobs/job-1/results/part-00000017-a2.arrow"]
    assert part == Part("part-00000017-a2.arrow", 2, blobs.size("jobs/job-1/results/part-00000017-a2.arrow"))
    assert sink.read(part.name).equals(TABLE)
    sink.delete(part.name)
    sink.delete(part.name)
    assert blobs.list() == []


@pytest.mark.parametrize(
    ("form", "path", "name"),
    [
        ("parquet", (17,), "part-00000017-a2.parquet"),
        ("parquet", (17, 1), "part-00000017.1-a2.parquet"),
        ("jsonl", (123456789, 0, 1), "part-123456789.0.1-a2.jsonl"),
    ],
)
def test_parts_are_named_after_shard_and_attempt(tmp_path: Path, form: Any, path: Any, name: str) -> None:
    sink = output_sink(tmp_path / "out", form=form)
    sink.prepare()
    assert sink.part_name(path, 2) == name
    assert sink.write(path, 2, TABLE).name == name
    assert (tmp_path / "out" / name).is_file()


def test_parts_may_differ_in_schema(tmp_path: Path) -> None:
    tables = [pa.table({"x": ["a"]}), pa.table({"x": pa.nulls(2)})]
    for form in ("parquet", "jsonl"):
        sink = output_sink(tmp_path / form, form=form)
        sink.prepare()
        parts = [sink.write(ShardId((number,)), 1, table) for number, table in enumerate(tables)]
        assert [sink.read(part.name) for part in parts] == tables


def test_preparing_makes_the_folder_and_releasing_removes_it(tmp_path: Path) -> None:
    sink = output_sink(tmp_path / "a" / "out")
    sink.prepare()
    assert json.loads((tmp_path / "a" / "out" / MARKER).read_text())["job"] == "job-1"
    sink.release()
    assert names(tmp_path / "a") == []


def test_releasing_leaves_a_folder_that_was_there(tmp_path: Path) -> None:
    sink = output_sink(tmp_path)
    sink.prepare()
    sink.release()
    assert names(tmp_path) == []


@pytest.mark.parametrize("entry", [".hidden", "_anything", "old.parquet"])
def test_even_one_hidden_file_makes_a_folder_not_empty(tmp_path: Path, entry: str) -> None:
    (tmp_path / entry).touch()
    with pytest.raises(InvalidOutput, match=f"is not empty: {entry}"):
        output_sink(tmp_path).prepare()
    assert names(tmp_path) == [entry]


def test_a_file_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InvalidOutput, match="is a file"):
        output_sink(tmp_path / "out").prepare()


@pytest.mark.parametrize("parent", ["/proc/1/fd", "/dev/null"])
def test_a_parent_that_cannot_be_written_is_refused_with_the_cause(parent: str) -> None:
    with pytest.raises(InvalidOutput, match=r"could not .*: (No such file|Not a directory|Permission denied)"):
        output_sink(Path(parent, "out")).prepare()


def test_an_output_outside_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    locations = Locations([str(tmp_path / "root")])
    for path in (tmp_path / "out", tmp_path / "root" / "link" / "out"):
        with pytest.raises(InvalidOutput, match="outside the folders"):
            open_sink(OutputSpec(path=str(path)), "job-1", BlobStore(LOCATIONS.resolve("/nowhere")), locations)


def test_of_many_jobs_at_once_one_takes_the_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def attempt(number: int) -> bool:
        sink = output_sink(tmp_path / "out", f"job-{number}")
        barrier.wait()
        try:
            sink.prepare()
        except InvalidOutput:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


class WatchedStore(BlobStore):
    """Calls `on_list` in the middle of `publish`, when it has sealed the folder and looks what is in it."""

    on_list: Any = None

    def list(self, prefix: str = "") -> list[str]:
        found = super().list(prefix)
        if self.on_list:
            self.on_list()
        return found


def test_a_part_that_comes_while_the_folder_is_swept_is_taken_back(tmp_path: Path) -> None:
    store = WatchedStore(LOCATIONS.resolve(str(tmp_path)))
    sink = Sink(store, part_format("parquet"), "job-1", guarded=True)
    sink.prepare()
    part = sink.write(ShardId((0,)), 2, TABLE)
    told = []

    def late() -> None:
        with pytest.raises(StaleToken) as caught:
            output_sink(tmp_path).write(ShardId((0,)), 1, TABLE)
        told.append(caught.value)

    store.on_list = late
    sink.publish(manifest(part))
    assert len(told) == 1
    assert names(tmp_path) == [MANIFEST, part.name]


def test_publishing_again_after_a_crash_gives_the_same_folder(tmp_path: Path) -> None:
    store = WatchedStore(LOCATIONS.resolve(str(tmp_path)))
    sink = Sink(store, part_format("parquet"), "job-1", guarded=True)
    sink.prepare()
    part = sink.write(ShardId((0,)), 1, TABLE)

    def crash() -> None:
        raise KeyboardInterrupt

    store.on_list = crash
    with pytest.raises(KeyboardInterrupt):
        sink.publish(manifest(part))
    for _ in range(2):
        output_sink(tmp_path).publish(manifest(part))
        assert names(tmp_path) == [MANIFEST, part.name]


def test_publishing_removes_half_files_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    sink = output_sink(tmp_path)
    sink.prepare()
    part = sink.write(ShardId((0,)), 1, TABLE)
    (tmp_path / ".part-00000001-a1.parquet.0123456789abcdef.tmp").touch()
    (tmp_path / "notes of a user.txt").touch()
    sink.publish(manifest(part))
    assert names(tmp_path) == [MANIFEST, "notes of a user.txt", part.name]


def test_a_part_that_is_missing_stops_publishing_before_anything_is_deleted(tmp_path: Path) -> None:
    sink = output_sink(tmp_path)
    sink.prepare()
    lost, loser = sink.write(ShardId((0,)), 2, TABLE), sink.write(ShardId((0,)), 1, TABLE)
    (tmp_path / lost.name).unlink()
    with pytest.raises(StorageError, match=f"missing in .*{lost.name}"):
        sink.publish(manifest(lost))
    assert loser.name in names(tmp_path)
    assert MANIFEST not in names(tmp_path)


def test_a_folder_that_another_job_took_over_is_left_alone(tmp_path: Path) -> None:
    first, second = output_sink(tmp_path, "job-1"), output_sink(tmp_path, "job-2")
    first.prepare()
    (tmp_path / MARKER).unlink()  # somebody emptied the folder while the job ran
    second.prepare()
    part = second.write(ShardId((0,)), 1, TABLE)
    before = names(tmp_path)
    with pytest.raises(StorageError, match="no longer that of job-1"):
        first.write(ShardId((7,)), 1, TABLE)
    with pytest.raises(StorageError, match="no longer that of job-1"):
        first.publish(manifest())
    first.release()
    assert names(tmp_path) == before
    assert second.read(part.name).equals(TABLE)


def test_a_manifest_reads_back_and_names_the_columns(tmp_path: Path) -> None:
    sink = output_sink(tmp_path)
    sink.prepare()
    written = manifest(sink.write(ShardId((0,)), 1, TABLE), rows_dead=3)
    sink.publish(written)
    assert Manifest.read(LOCATIONS.resolve(str(tmp_path))) == written
    assert written.columns == (Column(name="id", type="int64"),)
    assert json.loads((tmp_path / MANIFEST).read_text())["parts"][0]["name"] == "part-00000000-a1.parquet"


def test_a_missing_or_broken_manifest_is_told(tmp_path: Path) -> None:
    place = LOCATIONS.resolve(str(tmp_path))
    with pytest.raises(NotFound, match=MANIFEST):
        Manifest.read(place)
    (tmp_path / MANIFEST).write_text('{"version": 1, "job": 7}')
    with pytest.raises(StorageError, match="is no manifest of Batchmill: job"):
        Manifest.read(place)


def test_a_manifest_that_does_not_add_up_cannot_be_made() -> None:
    parts = [Part(f"part-0000000{number}-a1.parquet", 2, 10) for number in (0, 1)]
    assert manifest(*parts).rows == 4
    with pytest.raises(ValidationError, match="the parts hold 4 rows, the manifest says 5"):
        manifest(*parts, rows=5)
    with pytest.raises(ValidationError, match="not in input order"):
        manifest(*reversed(parts))
    with pytest.raises(ValidationError, match="there twice"):
        manifest(parts[0], parts[0])
