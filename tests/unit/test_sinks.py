"""An output folder: taken for one job, safe against late and foreign writers, and closed by its manifest."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from batchmill.columns import encode_schema
from batchmill.errors import InvalidOutput, StaleToken, StorageError
from batchmill.jobs.shard import ShardId
from batchmill.sinks import MARKER, Column, ManifestPart, keep_resumed_manifest
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill.workspace import Workspace
from support.outputs import JobOutput, job_output, manifest_path
from support.records import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

LOCATIONS = Locations(UNRESTRICTED)
TABLE = pa.table({"id": [1, 2]})


def output(folder: Path, job_id: str = "job-1", output_format: Any = "parquet") -> JobOutput:
    blobs = BlobStore(LOCATIONS.resolve(str(folder.parent / f"{folder.name[:200]}-blobs")))
    return job_output(str(folder), LOCATIONS, blobs, job_id=job_id, output_format=output_format)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_job_without_an_output_has_results_in_the_blob_store_and_nothing_to_publish(tmp_path: Path) -> None:
    blobs = BlobStore.open(str(tmp_path), LOCATIONS)
    workspace, spec = Workspace(blobs, LOCATIONS), spec_of(operator="echo")
    results = workspace.open_results("job-1", spec, 0)
    nbytes = results.write(ShardId((17,)), 2, TABLE)
    assert blobs.list() == ["jobs/job-1/results/0/part-00000017-a2.arrow"]
    assert nbytes == blobs.size("jobs/job-1/results/0/part-00000017-a2.arrow")
    assert results.read(ShardId((17,)), 2).equals(TABLE)
    assert workspace.open_publisher("job-1", spec) is None


@pytest.mark.parametrize(
    ("output_format", "path", "name"),
    [
        ("parquet", (17,), "part-00000017-a2.parquet"),
        ("parquet", (17, 1), "part-00000017.00000001-a2.parquet"),
        ("jsonl", (123456789, 0, 1), "part-123456789.00000000.00000001-a2.jsonl"),
    ],
)
def test_parts_are_named_after_shard_and_attempt(
    tmp_path: Path, output_format: Any, path: tuple[int, ...], name: str
) -> None:
    job = output(tmp_path / "out", output_format=output_format)
    job.publisher.prepare()
    part = job.write(path, 2, TABLE)
    assert (part.name, part.rows, part.shard) == (name, 2, ".".join(map(str, path)))
    assert (tmp_path / "out" / name).stat().st_size == part.bytes


def test_parts_get_the_one_schema_that_their_output_has_by_then(tmp_path: Path) -> None:
    tables = [pa.table({"x": ["a"]}), pa.table({"x": pa.nulls(2)})]
    for output_format in ("parquet", "jsonl"):
        job = output(tmp_path / output_format, output_format=output_format)
        job.publisher.prepare()
        for number, table in enumerate(tables):
            job.write((number,), 1, table)
        found = [job.results.read(ShardId((number,)), 1) for number in range(2)]
        assert found == [tables[0], tables[1].cast(tables[0].schema)]


def test_preparing_makes_the_folder_and_releasing_removes_it(tmp_path: Path) -> None:
    publisher = output(tmp_path / "a" / "out").publisher
    publisher.prepare()
    assert json.loads((tmp_path / "a" / "out" / MARKER).read_text())["job"] == "job-1"
    publisher.release()
    assert names(tmp_path / "a") == []


def test_releasing_leaves_a_folder_that_was_there(tmp_path: Path) -> None:
    publisher = output(tmp_path).publisher
    publisher.prepare()
    publisher.release()
    assert names(tmp_path) == []


@pytest.mark.parametrize("entry", [".hidden", "_anything", "old.parquet"])
def test_even_one_hidden_file_makes_a_folder_not_empty(tmp_path: Path, entry: str) -> None:
    (tmp_path / entry).touch()
    with pytest.raises(InvalidOutput, match=f"is not empty: it has {entry}"):
        output(tmp_path).publisher.prepare()
    assert names(tmp_path) == [entry]


def test_a_file_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InvalidOutput, match="is a file"):
        output(tmp_path / "out").publisher.prepare()


@pytest.mark.parametrize("parent", ["/proc/1/fd", "/dev/null"])
def test_a_parent_that_cannot_be_written_is_refused_with_the_cause(parent: str) -> None:
    with pytest.raises(InvalidOutput, match=r"could not .*: (No such file|Not a directory|Permission denied)"):
        output(Path(parent, "out")).publisher.prepare()


def test_an_output_outside_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    locations = Locations([str(tmp_path / "root")])
    for path in (tmp_path / "out", tmp_path / "root" / "link" / "out"):
        with pytest.raises(InvalidOutput, match="outside the folders"):
            job_output(str(path), locations, BlobStore(LOCATIONS.resolve(str(tmp_path))))


def test_of_many_jobs_at_once_one_takes_the_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def attempt(number: int) -> bool:
        publisher = output(tmp_path / "out", f"job-{number}").publisher
        barrier.wait()
        try:
            publisher.prepare()
        except InvalidOutput:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def on_list(patch: pytest.MonkeyPatch, action: Any) -> None:
    """Have `action` run once in the middle of `publish`: it has sealed the folder and looks what is in it."""
    listed = BlobStore.list

    def list_and_act(self: BlobStore, prefix: str = "") -> list[str]:
        found = listed(self, prefix)
        patch.setattr(BlobStore, "list", listed)
        action()
        return found

    patch.setattr(BlobStore, "list", list_and_act)


def test_a_part_that_comes_while_the_folder_is_swept_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = output(tmp_path)
    job.publisher.prepare()
    part = job.write((0,), 2, TABLE)
    refused = []

    def late() -> None:
        with pytest.raises(StaleToken) as caught:
            output(tmp_path).write((0,), 1, TABLE)
        refused.append(caught.value)

    on_list(monkeypatch, late)
    job.publisher.publish(job.manifest(part))
    assert len(refused) == 1
    assert names(tmp_path) == [part.name]


def test_publishing_again_after_a_crash_gives_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = output(tmp_path)
    job.publisher.prepare()
    part = job.write((0,), 1, TABLE)

    def crash() -> None:
        raise KeyboardInterrupt

    on_list(monkeypatch, crash)
    with pytest.raises(KeyboardInterrupt):
        job.publisher.publish(job.manifest(part))
    for _ in range(2):
        output(tmp_path).publisher.publish(job.manifest(part))
        assert names(tmp_path) == [part.name]


def test_publishing_removes_half_files_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    job = output(tmp_path)
    job.publisher.prepare()
    part = job.write((0,), 1, TABLE)
    (tmp_path / ".part-00000001-a1.parquet.0123456789abcdef.tmp").touch()
    (tmp_path / "notes of a user.txt").touch()
    job.publisher.publish(job.manifest(part))
    assert names(tmp_path) == ["notes of a user.txt", part.name]


def test_a_part_that_is_missing_stops_publishing_before_anything_is_deleted(tmp_path: Path) -> None:
    job = output(tmp_path)
    job.publisher.prepare()
    lost, loser = job.write((0,), 2, TABLE), job.write((0,), 1, TABLE)
    (tmp_path / lost.name).unlink()
    with pytest.raises(StorageError, match=f"missing in .*{lost.name}"):
        job.publisher.publish(job.manifest(lost))
    assert loser.name in names(tmp_path)
    assert not manifest_path(tmp_path).exists()


def test_a_folder_that_another_job_took_over_is_left_alone(tmp_path: Path) -> None:
    first, second = output(tmp_path, "job-1"), output(tmp_path, "job-2")
    first.publisher.prepare()
    (tmp_path / MARKER).unlink()  # somebody emptied the folder while the job ran
    second.publisher.prepare()
    second.write((0,), 1, TABLE)
    before = names(tmp_path)
    with pytest.raises(StorageError, match="no longer that of job-1"):
        first.write((7,), 1, TABLE)
    with pytest.raises(StorageError, match="no longer that of job-1"):
        first.publisher.publish(first.manifest())
    first.publisher.release()
    assert names(tmp_path) == before
    assert second.results.read(ShardId((0,)), 1).equals(TABLE)


def test_a_manifest_reads_back_and_names_the_columns(tmp_path: Path) -> None:
    job = output(tmp_path)
    job.publisher.prepare()
    written = job.manifest(job.write((0,), 1, TABLE), rows_dead=3, schema=TABLE.schema)
    job.publisher.publish(written)
    assert output(tmp_path, "job-2").publisher.published() == written
    assert written.columns == (Column(name="id", type="int64"),)
    assert json.loads(manifest_path(tmp_path).read_text())["parts"][0]["name"] == "part-00000000-a1.parquet"


def test_a_broken_manifest_is_an_error_that_names_it(tmp_path: Path) -> None:
    publisher = output(tmp_path / "out").publisher
    assert publisher.published() is None
    manifest_path(tmp_path / "out").write_text('{"version": 1, "job": 7}')
    with pytest.raises(StorageError, match=r"out\.manifest\.json is no manifest of Batchmill: job"):
        publisher.published()
    with pytest.raises(InvalidOutput, match=r"out\.manifest\.json is no manifest of Batchmill: job"):
        publisher.prepare()
    assert not (tmp_path / "out").exists()


def test_a_manifest_whose_folder_was_emptied_or_deleted_hinders_no_job(tmp_path: Path) -> None:
    folder = tmp_path / "an output of mine, v1.0"
    removals: tuple[Callable[[Path], None], ...] = (Path.unlink, lambda part: shutil.rmtree(part.parent))
    for number, remove in enumerate(removals):
        job = output(folder, f"job-{number}")
        job.publisher.prepare()
        assert not manifest_path(folder).exists()
        part = job.write((0,), 1, TABLE)
        job.publisher.publish(job.manifest(part))
        assert names(tmp_path) == [folder.name, f"{folder.name}-blobs", manifest_path(folder).name]
        remove(folder / part.name)
        assert output(folder, "job-9").publisher.published() is None


def test_a_folder_without_room_for_a_manifest_beside_it_refuses_the_job(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 250)
    with pytest.raises(InvalidOutput, match=r"could not .*: File name too long"):
        output(folder).publisher.prepare()
    assert not folder.exists()


def test_a_root_has_its_manifest_in_itself(tmp_path: Path) -> None:
    root, blobs = tmp_path / "root", BlobStore(LOCATIONS.resolve(str(tmp_path / "blobs")))
    root.mkdir()
    job = job_output(str(root), Locations([str(root)]), blobs)
    job.publisher.prepare()
    part = job.write((0,), 1, TABLE)
    job.publisher.publish(job.manifest(part))
    assert names(tmp_path) == ["blobs", "root"]
    assert names(root) == ["_manifest.json", part.name]
    assert job.publisher.published() == job.manifest(part)


def older_output(folder: Path, output_format: str, **changes: Any) -> tuple[JobOutput, ManifestPart]:
    """An output as earlier versions wrote it: the manifest in the folder, the schemas of lines below it."""
    job = output(folder, output_format=output_format)
    job.publisher.prepare()
    part = job.write((0,), 1, TABLE)
    if output_format == "jsonl":
        (folder / "_schemas").mkdir()
        (folder / "_schemas" / "part-00000000-a1.arrow").write_bytes(TABLE.schema.serialize())
    shutil.rmtree(f"{folder}-blobs")
    manifest = json.loads(job.manifest(part).to_json()) | changes
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    (folder / MARKER).unlink()
    return job, part


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "arrow"])
def test_an_output_of_an_earlier_version_is_found_read_and_replaced(tmp_path: Path, output_format: Any) -> None:
    folder = tmp_path / "out"
    job, part = older_output(folder, output_format)
    assert job.publisher.published() == job.manifest(part)
    with pytest.raises(InvalidOutput, match="is not empty"):
        output(folder, "job-2").publisher.prepare()
    assert job.results.read(ShardId((0,)), 1).equals(TABLE)
    assert job.results.schema(ShardId((0,)), 1).equals(TABLE.schema)
    nbytes = job.publisher.replace_part(ShardId((1,)), 2, TABLE)
    more = job.publisher.part(ShardId((1,)), 2, 2, nbytes)
    job.publisher.update_manifest(job.manifest(part, more))
    assert json.loads(manifest_path(folder).read_text())["rows"] == 4
    assert not (folder / "_manifest.json").exists()
    assert [job.results.read(ShardId((number,)), token).num_rows for number, token in ((0, 1), (1, 2))] == [2, 2]
    job.publisher.update_manifest(job.manifest(more))
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [more.name]


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "arrow"])
def test_a_job_reads_the_parts_of_one_that_it_resumes_although_that_one_is_deleted(
    tmp_path: Path, output_format: Any
) -> None:
    folder, blobs = tmp_path / "out", BlobStore(LOCATIONS.resolve(str(tmp_path / "out-blobs")))
    first, second = (output(folder, job_id, output_format) for job_id in ("job-1", "job-2"))
    first.publisher.prepare()
    part = first.write((0,), 1, TABLE)
    manifest = first.manifest(part, arrow_schema=encode_schema(TABLE.schema))
    first.publisher.publish(manifest)
    blobs.delete_folder("jobs/job-1")
    keep_resumed_manifest(blobs, "job-2", manifest)
    second.publisher.reopen()
    assert second.results.read(ShardId((0,)), 1).equals(TABLE)
    assert second.results.schema(ShardId((0,)), 1).equals(TABLE.schema)


def test_a_manifest_that_does_not_add_up_cannot_be_made(tmp_path: Path) -> None:
    job = output(tmp_path)
    parts = [
        ManifestPart(name=f"part-0000000{number}-a1.parquet", rows=2, bytes=10, shard=str(number)) for number in (0, 1)
    ]
    assert job.manifest(*parts).rows == 4
    with pytest.raises(ValidationError, match="the parts hold 4 rows, the manifest says 5"):
        job.manifest(*parts, rows=5)
    with pytest.raises(ValidationError, match="not in input order"):
        job.manifest(*reversed(parts))
    with pytest.raises(ValidationError, match="there twice"):
        job.manifest(parts[0], parts[0])


def test_columns_that_do_not_repeat_are_written_into_parquet_without_a_dictionary(tmp_path: Path) -> None:
    names = [f"name {number}" for number in range(6000)]
    lists = [[number % 3] for number in range(6000)]
    table = pa.table({"unique": names, "repeats": [name[:6] for name in names], "list": lists, "float": [0.5] * 6000})
    job = output(tmp_path / "out")
    job.publisher.prepare()
    job.write((0,), 1, table)
    written = pq.ParquetFile(next((tmp_path / "out").glob("*.parquet"))).metadata.row_group(0)
    columns = [written.column(number) for number in range(4)]
    assert [column.has_dictionary_page for column in columns] == [False, True, False, False]
    assert job.results.read(ShardId((0,)), 1).equals(table)
