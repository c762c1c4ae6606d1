"""What the blob store promises, over a local folder and over S3 on a real server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import xxhash

from batchmill.errors import InvalidRequest, InvalidSettings, NotFound, StorageError
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

TABLE = pa.table(
    {
        "id": pa.array([3, 1, 2], pa.int16()),
        "text": ["b", None, "é"],
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "vector": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
    }
)


@pytest.mark.parametrize("data", [b"", b"abc", pa.py_buffer(b"abc"), [b"a", pa.py_buffer(b"bc")], []])
def test_a_blob_reads_back_as_it_was_put(blobs: BlobStore, data: Any) -> None:
    expected = b"".join(bytes(piece) for piece in data) if isinstance(data, list) else bytes(data)
    assert blobs.put("jobs/j1/x.bin", data) == len(expected)
    assert blobs.get("jobs/j1/x.bin").to_pybytes() == expected
    assert blobs.size("jobs/j1/x.bin") == len(expected)
    assert blobs.exists("jobs/j1/x.bin")


def test_putting_a_name_again_replaces_the_blob(blobs: BlobStore) -> None:
    blobs.put("x", b"the first one, which is longer")
    blobs.put("x", b"the second")
    assert blobs.get("x").to_pybytes() == b"the second"


def test_a_table_keeps_its_schema_and_rows(blobs: BlobStore) -> None:
    table = TABLE.replace_schema_metadata({"model": "m1"})
    size = blobs.put_table("t.arrow", table)
    found = blobs.read_table("t.arrow")
    assert size == blobs.size("t.arrow")
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found.equals(table)


def test_a_table_without_rows_keeps_its_schema(blobs: BlobStore) -> None:
    blobs.put_table("t.arrow", TABLE.schema.empty_table())
    assert blobs.read_table("t.arrow").equals(TABLE.schema.empty_table())


def test_chunks_with_dictionaries_of_their_own_are_one_column(blobs: BlobStore) -> None:
    chunks = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]).dictionary_encode()]
    blobs.put_table("t.arrow", pa.table({"kind": pa.chunked_array(chunks)}))
    assert blobs.read_table("t.arrow")["kind"].to_pylist() == ["a", "b", "c", None]


def test_a_missing_blob_is_not_found_and_named(blobs: BlobStore) -> None:
    for look in (blobs.get, blobs.size, blobs.read_table):
        with pytest.raises(NotFound, match=r"blobs/jobs/none"):
            look("jobs/none")
    assert not blobs.exists("jobs/none")


def test_a_folder_is_no_blob(blobs: BlobStore) -> None:
    blobs.put("a/b", b"x")
    assert not blobs.exists("a")
    with pytest.raises(NotFound):
        blobs.size("a")


def test_a_blob_that_is_no_table_is_named(blobs: BlobStore) -> None:
    blobs.put("t.arrow", b"certainly no table")
    with pytest.raises(StorageError, match=r"could not read .*t\.arrow"):
        blobs.read_table("t.arrow")


def test_lists_are_sorted_relative_to_the_root_and_of_one_folder_only(blobs: BlobStore) -> None:
    for name in ("b/2", "b/10", "a/x/y", "c", "bb/1"):
        blobs.put(name, b"")
    assert blobs.list("") == ["a/x/y", "b/10", "b/2", "bb/1", "c"]
    assert blobs.list("b") == ["b/10", "b/2"]
    assert blobs.list("none") == []


def test_deleting_removes_one_blob_and_a_missing_one_is_fine(blobs: BlobStore) -> None:
    blobs.put("a/1", b"")
    blobs.put("a/2", b"")
    blobs.delete("a/1")
    blobs.delete("a/1")
    assert blobs.list() == ["a/2"]


def test_several_blobs_are_deleted_at_once_and_missing_ones_are_fine(blobs: BlobStore) -> None:
    for name in ("a/1", "a/2", "b/1"):
        blobs.put(name, b"x")
    blobs.delete()
    blobs.delete("a/0", "a/1", "b/0", "b/1")
    assert blobs.list() == ["a/2"]


def test_deleting_a_folder_removes_all_below_it_and_nothing_beside(blobs: BlobStore) -> None:
    for name in ("a/1", "a/b/2", "ab/3"):
        blobs.put(name, b"")
    blobs.delete_folder("a")
    blobs.delete_folder("a")
    assert blobs.list() == ["ab/3"]


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a b", "é", "a\n", "x" * 201])
def test_what_is_no_name_is_refused(blobs: BlobStore, name: str) -> None:
    for use in (blobs.get, blobs.delete, blobs.delete_folder, blobs.location, lambda name: blobs.put(name, b"")):
        with pytest.raises(InvalidRequest, match="is no blob name"):
            use(name)


def test_only_the_first_of_several_new_blobs_of_a_name_is_written(blobs: BlobStore) -> None:
    assert blobs.put_new("x", b"1")
    assert not blobs.put_new("x", b"2")
    assert blobs.get("x").to_pybytes() == b"1"


def test_of_two_takers_at_once_exactly_one_creates_the_blob_every_time(place: tuple[str, Locations]) -> None:
    stores = [BlobStore.open(f"{place[0]}/blobs", place[1]) for _ in range(2)]
    start = threading.Barrier(len(stores))

    def take(store: BlobStore, name: str, data: bytes) -> bool:
        start.wait()
        return store.put_new(name, data)

    with ThreadPoolExecutor(len(stores)) as pool:
        for number in range(200):
            name = f"taken-{number}"
            wins = list(pool.map(take, stores, [name] * 2, [b"first", b"second"]))
            assert sorted(wins) == [False, True]
            assert stores[0].get(name).to_pybytes() == (b"first" if wins[0] else b"second")


def test_a_file_that_could_not_be_filled_leaves_nothing(blobs: BlobStore) -> None:
    blobs.put("x", b"before")

    def fill(path: str) -> None:
        with open(path, "wb") as file:  # noqa: PTH123  # what libraries do
            file.write(b"half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        blobs.put_file("x", fill)
    assert blobs.get("x").to_pybytes() == b"before"
    assert blobs.list() == ["x"]


def test_readers_see_one_whole_blob_or_the_other_while_threads_write(blobs: BlobStore) -> None:
    whole = {bytes([number]) * 100_000 for number in range(4)}
    blobs.put("x", bytes(100_000))
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(blobs.put, "x", data) for data in sorted(whole) * 5]
        reads = [pool.submit(lambda: blobs.get("x").to_pybytes()) for _ in range(40)]
        assert {read.result() for read in reads} <= whole
        assert {write.result() for write in writes} == {100_000}
    assert blobs.list() == ["x"]


def test_a_store_that_is_no_place_is_an_invalid_setting() -> None:
    with pytest.raises(InvalidSettings, match="no absolute path"):
        BlobStore.open("relative/path", Locations(UNRESTRICTED))


def test_the_size_and_checksum_of_a_blob_without_a_seal_are_found_without_holding_it(blobs: BlobStore) -> None:
    plain, data = blobs.unsealed(), bytes(range(256)) * 10_000
    plain.put("out/file", data)
    assert plain.checksum("out/file") == (len(data), xxhash.xxh3_64_intdigest(data))
    with pytest.raises(NotFound, match="out/none"):
        plain.checksum("out/none")
