"""Files as rows: images, PDFs and anything else, read by the worker when their shard is."""

from __future__ import annotations

import datetime
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import describe, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    import batchmill
    from batchmill.sources import Source

IMAGE = b"\x89PNG\r\n\x1a\n" + zlib.compress(bytes(range(256)))
PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"


def _folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def _open(tmp_path: Path, **options: object) -> Source:
    locations = Locations(UNRESTRICTED)
    description = describe(FileSource(format="binary", **options), locations)
    return open_source(description, locations, BlobStore.open(str(tmp_path / "blobs"), locations), "staged")


def test_each_file_is_a_row_with_its_bytes_in_natural_order(client: batchmill.Client, tmp_path: Path) -> None:
    files = {"page-10.pdf": PDF, "page-2.pdf": PDF + b"2", "deep/image.png": IMAGE, "empty.gz": b""}
    folder = _folder(tmp_path / "in", files)
    job = client.submit("echo", source={"path": str(folder), "format": "binary"})
    at = datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)
    names = ["deep/image.png", "empty.gz", "page-2.pdf", "page-10.pdf"]
    expected = [
        {"path": str(folder / name), "size": len(files[name]), "modified_at": at, "bytes": files[name]}
        for name in names
    ]
    assert list(job.results()) == expected


def test_a_file_that_is_too_large_is_a_dead_letter_and_the_others_are_rows(
    client: batchmill.Client, tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "in", {"a.bin": b"1234", "b.bin": b"123456789", "c.bin": b""})
    job = client.submit("echo", source={"path": f"{folder}/*.bin", "format": "binary", "max_file_bytes": 8})
    assert [(row["path"], row["bytes"]) for row in job.results()] == [
        (str(folder / "a.bin"), b"1234"),
        (str(folder / "c.bin"), b""),
    ]
    (letter,) = job.dead_letters()
    assert (letter.index, letter.error_type, letter.row["file"]) == (1, "too_large", str(folder / "b.bin"))
    assert letter.message == f"{folder / 'b.bin'}: it has 9 bytes, and a file may have 8."


def test_a_source_of_files_that_are_all_too_large_ends_with_dead_letters_only(
    client: batchmill.Client, tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "in", {f"{number}.bin": b"12345" for number in range(20)})
    job = client.submit("echo", source={"path": str(folder), "format": "binary", "max_file_bytes": 4})
    assert list(job.results()) == []
    assert job.status().rows_dead == 20


def test_thousands_of_small_files_come_back_in_order_with_their_bytes(client: batchmill.Client, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3_000):
        (folder / f"f{number}").write_bytes(b"%d" % number)
    job = client.submit("echo", source={"path": str(folder), "format": "binary"})
    table = job.to_table()
    assert table["bytes"].to_pylist() == [b"%d" % number for number in range(3_000)]
    assert [Path(path).name for path in table["path"].to_pylist()] == [f"f{number}" for number in range(3_000)]


def test_without_the_bytes_no_file_is_opened(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "in", {"a": b"123", "b": b"4"})
    source = _open(tmp_path, path=str(folder), columns=["size", "path"])
    with source.splitter() as splitter:
        (split,) = splitter.available(100, 1_000_000)
    for path in folder.iterdir():
        path.unlink()
    assert source.read(split.slices).to_pylist() == [
        {"size": 3, "path": str(folder / "a")},
        {"size": 1, "path": str(folder / "b")},
    ]


def test_files_are_split_by_their_bytes_and_their_number(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "in", {f"{number}": b"x" * 1000 for number in range(10)})
    source = _open(tmp_path, path=str(folder))

    def sizes(max_rows: int, max_bytes: int) -> list[int]:
        with source.splitter() as splitter:
            return [split.rows for split in splitter.available(max_rows, max_bytes)]

    assert sizes(4, 1_000_000) == [4, 4, 2]
    assert sizes(100, 3500) == [3, 3, 3, 1]
    assert sizes(100, 10) == [1] * 10
    with source.splitter() as splitter:
        first = next(splitter.available(4, 1_000_000))
    with source.splitter(first.cursor) as splitter:
        assert [split.rows for split in splitter.available(100, 1_000_000)] == [6]


def test_a_file_that_changes_after_the_submission_is_refused_by_name(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "in", {"a": b"123"})
    source = _open(tmp_path, path=str(folder))
    with source.splitter() as splitter:
        (split,) = splitter.available(100, 1_000_000)
    (folder / "a").write_bytes(b"12345")
    with pytest.raises(InvalidSource, match="a changed since the job was submitted"):
        source.read(split.slices)
