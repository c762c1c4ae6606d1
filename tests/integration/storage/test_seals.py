"""What is stored and later read is what was written, or the reader is told what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import DamagedData, InvalidSource, NotFound, StorageError
from batchmill.jobs.shard import ShardId
from batchmill.sinks.opening import kept_results
from batchmill.sources.describing.describe import describe_upload
from batchmill.sources.files.opening import SourceFiles
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from collections.abc import Callable

LOCATIONS = Locations(UNRESTRICTED)
TABLE = pa.table({"id": list(range(1000))})
PART = "uploads/u1/part-00000000.arrow"


def _flip(at: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = min(int(len(data) * at), len(data) - 1)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "the first bit": _flip(0.0),
    "a bit of a value": _flip(0.4),
    "a bit of the footer": _flip(0.98),
    "a bit of the seal": _flip(1.0),
    "cut to a half": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "cut by the seal": lambda data: data[:-24],
    "cut in the front": lambda data: data[8:],
    "empty": lambda _: b"",
    "longer": lambda data: data + b"x",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.fixture(params=DAMAGE)
def change(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    """One kind of damage."""
    return DAMAGE[request.param]


def _damage(blobs: BlobStore, name: str, change: Callable[[bytes], bytes]) -> None:
    raw = blobs.unsealed()
    raw.put(name, change(raw.get(name).to_pybytes()))


def test_a_damaged_blob_is_named_and_not_served(blobs: BlobStore, change: Callable[[bytes], bytes]) -> None:
    blobs.put_table("jobs/j1/t.arrow", TABLE)
    blobs.put("jobs/j1/x", [b"first", b"", b"second"])
    assert blobs.put_new("jobs/j1/y", b"once")
    for name in ("jobs/j1/t.arrow", "jobs/j1/x", "jobs/j1/y"):
        _damage(blobs, name, change)
        with pytest.raises(DamagedData, match=rf"{name} is damaged: .*") as raised:
            blobs.get(name)
        assert raised.value.details["path"].endswith(name)
        with pytest.raises(DamagedData, match=rf"{name} is damaged: .*"):
            b"".join(blobs.pieces(name))


def test_a_blob_is_read_in_pieces_and_damage_is_told_before_the_last_one(blobs: BlobStore) -> None:
    content = bytes(range(256)) * 10_000
    blobs.put("files/f/content", content)
    pieces = list(blobs.pieces("files/f/content"))
    assert (b"".join(pieces), len(pieces)) == (content, 3)
    blobs.put("files/f/none", b"")
    assert list(blobs.pieces("files/f/none")) == []
    _damage(blobs, "files/f/content", _flip(0.1))
    received: list[bytes] = []
    with pytest.raises(DamagedData):
        received.extend(blobs.pieces("files/f/content"))
    assert sum(map(len, received)) < len(content)
    with pytest.raises(NotFound):
        next(blobs.pieces("files/f/missing"))


def test_a_blob_in_the_place_of_another_is_damage(blobs: BlobStore) -> None:
    blobs.put("jobs/j1/a", b"rows of a")
    blobs.put("jobs/j2/a", b"rows of b")
    raw = blobs.unsealed()
    raw.put("jobs/j1/a", raw.get("jobs/j2/a"))
    with pytest.raises(DamagedData, match="checksum"):
        blobs.get("jobs/j1/a")


def test_a_store_below_another_reads_the_same_blobs(blobs: BlobStore) -> None:
    blobs.put("jobs/j1/a", b"rows")
    assert blobs.below("jobs").below("j1").get("a").to_pybytes() == b"rows"
    blobs.below("jobs/j1").put("b", b"more")
    assert blobs.get("jobs/j1/b").to_pybytes() == b"more"


def test_damaged_results_are_not_read(blobs: BlobStore, change: Callable[[bytes], bytes]) -> None:
    results = kept_results("j1", 0, blobs)
    results.write(ShardId((3,)), 1, TABLE)
    assert results.read(ShardId((3,)), 1).equals(TABLE)
    (name,) = blobs.list("jobs/j1/results")
    _damage(blobs, name, change)
    for read in (results.read, results.schema):
        with pytest.raises(DamagedData, match="part-00000003-a1"):
            read(ShardId((3,)), 1)


def test_a_damaged_part_of_an_upload_is_no_source(blobs: BlobStore, change: Callable[[bytes], bytes]) -> None:
    blobs.put_table(PART, TABLE)
    description = describe_upload(blobs, "u1", 1)
    assert SourceFiles(description, LOCATIONS, blobs).open(0).size() == description.files[0].size
    _damage(blobs, PART, change)
    for use in (lambda: describe_upload(blobs, "u1", 1), lambda: SourceFiles(description, LOCATIONS, blobs).open(0)):
        with pytest.raises(StorageError, match=PART):
            use()
    blobs.delete(PART)
    with pytest.raises(InvalidSource, match="does not exist"):
        SourceFiles(description, LOCATIONS, blobs).open(0)


def test_an_upload_that_is_cut_short_while_it_is_read_stays_as_it_was(tmp_path: Path) -> None:
    blobs = BlobStore.open(str(tmp_path), LOCATIONS)
    blobs.put_table(PART, TABLE)
    file = SourceFiles(describe_upload(blobs, "u1", 1), LOCATIONS, blobs).open(0)
    Path(blobs.location(PART).path).write_bytes(b"")
    assert pa.ipc.open_file(file).read_all().equals(TABLE)
