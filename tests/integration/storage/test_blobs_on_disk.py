"""What the blob store does on a local disk: files that are cut short, left behind, or have no room."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from batchmill.errors import StorageError
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.processes import run_python


def test_a_read_table_outlives_its_file_even_if_that_is_cut_short(tmp_path: Path) -> None:
    blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    blobs.put_table("t.arrow", pa.table({"x": pa.array(range(1_000_000))}))
    table = blobs.read_table("t.arrow")
    (tmp_path / "t.arrow").write_bytes(b"")
    with pytest.raises(StorageError, match=r"t\.arrow"):
        blobs.read_table("t.arrow")
    blobs.delete("t.arrow")
    assert table["x"].to_pylist() == list(range(1_000_000))


def test_what_dead_writers_left_is_out_of_sight_and_can_be_deleted(tmp_path: Path) -> None:
    blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    code = """
        import os, sys
        from batchmill.storage.blobs import BlobStore
        from batchmill.storage.locations import UNRESTRICTED, Locations
        blobs = BlobStore.open(sys.argv[1], Locations(UNRESTRICTED))
        blobs.put("a/whole", b"x")
        blobs.put_file("a/half", lambda path: (open(path, "wb").write(b"half"), os._exit(9)))
    """
    assert run_python(code, str(tmp_path)).returncode == 9
    assert len(list((tmp_path / "a").iterdir())) == 2
    assert blobs.list() == ["a/whole"]
    blobs.delete_unfinished("a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole"]


def test_a_full_disk_leaves_nothing_and_says_what_could_not_be_written(tmp_path: Path) -> None:
    code = """
        import resource, sys
        import pyarrow as pa
        from batchmill.storage.blobs import BlobStore
        from batchmill.errors import StorageError
        from batchmill.storage.locations import UNRESTRICTED, Locations
        from batchmill.jobs.shard import ShardId
        from batchmill.sinks.parts import part_format
        from batchmill.sinks.result_store import PartFiles
        blobs = BlobStore.open(sys.argv[1], Locations(UNRESTRICTED))
        blobs.put("x", b"before")
        table = pa.table({"x": range(500_000)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for write in (
            lambda: blobs.put("x", bytes(1_000_000)),
            lambda: blobs.put_table("x", table),
            lambda: PartFiles(blobs, part_format("parquet")).write(ShardId((0,)), 1, table),
            lambda: PartFiles(blobs, part_format("jsonl")).write(ShardId((0,)), 1, table),
        ):
            try:
                write()
            except StorageError as error:
                print(error.message)
    """
    done = run_python(code, str(tmp_path))
    names = ["x", "x", "part-00000000-a1.parquet", "part-00000000-a1.jsonl"]
    refused = [f"could not write {tmp_path}/{name}: File too large." for name in names]
    assert done.stdout.splitlines() == refused, done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x"]
    assert (tmp_path / "x").read_bytes().startswith(b"before")


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"could not use .*file/blobs: Not a directory"):
        BlobStore.open(f"{tmp_path}/file/blobs", Locations(UNRESTRICTED))


def test_a_new_blob_is_never_seen_before_it_is_filled(tmp_path: Path) -> None:
    blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    data = b"x" * 100_000
    with ThreadPoolExecutor(1) as pool:
        for number in range(100):
            written = pool.submit(blobs.put_new, f"new-{number}", data)
            while not blobs.exists(f"new-{number}"):
                assert not written.done() or written.result()
            assert blobs.get(f"new-{number}").size == len(data)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_disk_without_hard_links_still_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    assert [blobs.put_new("x", data) for data in (b"1", b"2")] == [True, False]
    assert blobs.get("x").to_pybytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
