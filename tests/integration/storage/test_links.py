"""No link leads out of a root, whenever it is put there; and who may read what is written."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import BatchmillError, InvalidOutput, StorageError
from batchmill.jobs.shard import ShardId
from batchmill.sources.files.opening import open_file, real_location
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.outputs import job_output, manifest_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLE = pa.table({"id": [1, 2]})
RACE_S = 2.0
MAX_PAUSE_S = 0.02  # between two swaps: about as long as a write takes, so that some writes fall between two
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Roots:
    """A root, and a folder outside of it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside"
        self.blobs = BlobStore.open(str(folder / "blobs"), Locations(UNRESTRICTED))
        (self.root / "out").mkdir(parents=True)
        self.outside.mkdir()
        self.locations = Locations([str(self.root)])

    def out(self) -> BlobStore:
        return BlobStore(self.locations.resolve(str(self.root / "out")))

    def lead_out(self) -> None:
        """Put a link out of the root into the place of the folder."""
        (self.root / "out").rename(self.root / "before")
        (self.root / "out").symlink_to(self.outside)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


def fill(path: str) -> None:
    Path(path).write_text("mine")


WRITES: dict[str, Callable[[BlobStore], object]] = {
    "bytes": lambda store: store.put("x", b"mine"),
    "a file": lambda store: store.put_file("x", fill),
    "a table": lambda store: store.put_table("a/b/x", TABLE),
    "a new one": lambda store: store.put_new("x", b"mine"),
}
READS: dict[str, Callable[[BlobStore], object]] = {
    "bytes": lambda store: store.get("secret"),
    "a source": lambda store: open_file(store.location("secret")),
    "the names": lambda store: store.list(),
    "what is there": lambda store: store.size("secret"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_folder_that_became_a_link_out_is_not_written(roots: Roots, write: str) -> None:
    store = roots.out()
    roots.lead_out()
    with pytest.raises(StorageError, match=r"could not write .*: Permission denied"):
        WRITES[write](store)
    assert not list(roots.outside.iterdir())


@pytest.mark.parametrize("read", READS)
def test_a_folder_that_became_a_link_out_is_not_read(roots: Roots, read: str) -> None:
    (roots.outside / "secret").write_text("theirs")
    store = roots.out()
    roots.lead_out()
    with pytest.raises((StorageError, PermissionError), match="Permission denied"):
        READS[read](store)


def test_a_folder_that_became_a_link_out_keeps_what_it_leads_to(roots: Roots) -> None:
    (roots.outside / "x").write_text("theirs")
    (roots.outside / ".x.0123456789abcdef.tmp").write_text("theirs")
    store = roots.out()
    roots.lead_out()
    with pytest.raises(StorageError, match="Permission denied"):
        store.delete("x")
    with pytest.raises(StorageError, match="Permission denied"):
        store.delete_unfinished()
    assert len(list(roots.outside.iterdir())) == 2


def test_a_file_that_became_a_link_out_is_replaced_and_not_followed(roots: Roots) -> None:
    (roots.outside / "secret").write_text("theirs")
    store = roots.out()
    (roots.root / "out" / "x").symlink_to(roots.outside / "secret")
    with pytest.raises(StorageError, match="Permission denied"):
        store.get("x")
    store.put("x", b"mine")
    assert store.get("x").to_pybytes() == b"mine"
    assert (roots.outside / "secret").read_text() == "theirs"


@pytest.mark.parametrize("kind", ["a pipe", "a folder"])
def test_what_is_no_file_is_not_read(roots: Roots, kind: str) -> None:
    path = roots.root / "out" / "x"
    path.mkdir() if kind == "a folder" else os.mkfifo(path)
    with pytest.raises(StorageError, match="could not read"):
        roots.out().get("x")


def test_links_inside_of_a_root_are_followed(roots: Roots, tmp_path: Path) -> None:
    (roots.root / "link").symlink_to(roots.root / "out")
    (tmp_path / "root by another name").symlink_to(roots.root)
    store = BlobStore(roots.locations.resolve(str(roots.root / "link")))
    for name, write in enumerate(WRITES.values()):
        write(store.below(str(name)))
    assert store.list() == roots.out().list() == ["0/x", "1/x", "2/a/b/x", "3/x"]
    (roots.root / "file").symlink_to(roots.root / "out" / "0" / "x")
    location = real_location(roots.locations.resolve(str(roots.root / "file")), roots.locations)
    assert open_file(location).read() == b"mine"
    named = Locations([str(tmp_path / "root by another name")])
    other = BlobStore(named.resolve(str(tmp_path / "root by another name" / "link")))
    assert other.get("0/x").to_pybytes() == b"mine"
    assert other.size("2/a/b/x") == store.size("2/a/b/x")
    other.delete("0/x")
    assert store.list() == ["1/x", "2/a/b/x", "3/x"]


def exchange(first: Path, second: Path) -> None:
    """Give each of two entries the other's name, in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(first), _AT_FDCWD, bytes(second), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def swapping(roots: Roots) -> Iterator[Roots]:
    """A root in which a folder and a link out of it have each other's name, in turns."""
    (roots.root / "link").symlink_to(roots.outside)
    exchange(roots.root / "out", roots.root / "link")
    exchange(roots.root / "out", roots.root / "link")
    done = threading.Event()

    def swap() -> None:
        chance = Random(0)
        while not done.wait(chance.uniform(0, MAX_PAUSE_S)):
            exchange(roots.root / "out", roots.root / "link")

    thread = threading.Thread(target=swap)
    thread.start()
    yield roots
    done.set()
    thread.join()


def test_a_folder_that_is_swapped_with_a_link_all_the_time_leads_nowhere(swapping: Roots) -> None:
    secret = swapping.outside / "secret"
    secret.write_bytes(b"theirs")
    ends_at, number, read, written = time.monotonic() + RACE_S, 0, 0, 0
    while time.monotonic() < ends_at:
        number += 1
        with suppress(BatchmillError):
            output = job_output(str(swapping.root / "out" / f"job-{number}"), swapping.locations, swapping.blobs)
            output.publisher.prepare()
            output.results.write(ShardId((0,)), 1, TABLE)
            written += 1
        with suppress(BatchmillError, OSError):
            place = real_location(swapping.locations.resolve(str(swapping.root / "out" / "secret")), swapping.locations)
            read += open_file(place).read() == b"theirs"
    assert [path.name for path in swapping.outside.iterdir()] == ["secret"]
    assert (read, written > 0) == (0, True), f"of {number} tries"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the umask of this process for the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def modes(folder: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {"folders": {folder.stat().st_mode & 0o777}, "files": set()}
    for path in folder.rglob("*"):
        found["folders" if path.is_dir() else "files"].add(path.stat().st_mode & 0o777)
    return found


@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077])
def test_only_the_services_user_may_see_the_blob_store(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    umask(mask)
    store = BlobStore.open(str(tmp_path / "blobs"), Locations(UNRESTRICTED))
    for kind in (store, store.unsealed().below("unsealed")):
        for name, write in enumerate(WRITES.values()):
            write(kind.below(f"jobs/{name}"))
    assert modes(tmp_path / "blobs") == {"folders": {0o700}, "files": {0o600}}


@pytest.mark.parametrize("is_bounded", [True, False])
@pytest.mark.parametrize(("mask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_an_output_follows_the_umask(
    roots: Roots, umask: Callable[[int], int], mask: int, folder_mode: int, file_mode: int, *, is_bounded: bool
) -> None:
    umask(mask)
    out = roots.root / "new" / "out"
    locations = roots.locations if is_bounded else Locations(UNRESTRICTED)
    for form in ("parquet", "jsonl", "arrow"):
        output = job_output(str(out / form), locations, roots.blobs, job_id=f"job-{form}", output_format=form)
        output.publisher.prepare()
        output.publisher.publish(output.manifest(output.write((0,), 1, TABLE)))
        assert manifest_path(out / form).stat().st_mode & 0o777 == file_mode
    assert modes(roots.root / "new") == {"folders": {folder_mode}, "files": {file_mode}}


def test_an_output_outside_of_the_roots_is_refused_by_its_path(roots: Roots) -> None:
    roots.lead_out()
    with pytest.raises(InvalidOutput, match="outside the folders"):
        job_output(str(roots.root / "out"), roots.locations, roots.blobs)
