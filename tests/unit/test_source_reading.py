"""Reading described sources: where pieces end, what is cached, and files that are not what they were."""

from __future__ import annotations

import functools
import operator
import os
import random
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.jobs.shard import Slice
from batchmill.sources import InputSplit, Source, describe, open_source
from batchmill.sources.files import opening
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCATIONS = Locations(UNRESTRICTED)
PLENTY = 1 << 40


def opened(path: Path, locations: Locations = LOCATIONS) -> Source:
    blobs = BlobStore.open(f"{path.parent}/_blobs", LOCATIONS)
    return open_source(describe(FileSource(path=str(path)), locations), locations, blobs, "jobs/job-1/staged")


def cut_rows(source: Source, max_rows: int, max_bytes: int = PLENTY) -> list[list[int]]:
    """The rows of each slice of each split."""
    with source.splitter() as splitter:
        return [[part.rows for part in split.slices] for split in splitter.available(max_rows, max_bytes)]


def numbers(count: int, start: int = 0) -> pa.Table:
    return pa.table({"n": range(start, start + count), "text": [f"row {n}" for n in range(start, start + count)]})


def test_a_piece_ends_where_a_row_group_ends_if_one_is_near(tmp_path: Path) -> None:
    pq.write_table(numbers(1000), tmp_path / "a.parquet", row_group_size=80)
    assert cut_rows(opened(tmp_path / "a.parquet"), 100)[:3] == [[80], [80], [80]]
    assert cut_rows(opened(tmp_path / "a.parquet"), 150) == [[150]] * 4 + [[120], [150], [130]]
    assert cut_rows(opened(tmp_path / "a.parquet"), 2000) == [[1000]]


def test_a_piece_stays_within_its_bytes(tmp_path: Path) -> None:
    wide = pa.table({"n": range(100), "text": [f"{n:05d}" * 200 for n in range(100)]})
    pq.write_table(wide, tmp_path / "a.parquet", row_group_size=50, compression="none")
    sizes = cut_rows(opened(tmp_path / "a.parquet"), 1000, 10_500)
    assert functools.reduce(operator.iadd, sizes, []) == [piece[0] for piece in sizes]
    assert all(5 <= piece[0] <= 11 for piece in sizes[:-1])
    assert cut_rows(opened(tmp_path / "a.parquet"), 1000, 1) == [[1]] * 100


def test_small_files_are_combined_into_one_piece(tmp_path: Path) -> None:
    for number in range(10):
        pq.write_table(numbers(10, 10 * number), tmp_path / f"{number}.parquet")
    source = opened(tmp_path)
    assert cut_rows(source, 100) == [[10] * 10]
    assert cut_rows(source, 35) == [[10, 10, 10], [10, 10, 10], [10, 10, 10], [10]]
    split = source.splitter().next_split(100, PLENTY)
    assert isinstance(split, InputSplit)
    assert source.read(split.slices).column("n").to_pylist() == [*range(100)]


def test_a_piece_of_many_tiny_files_has_a_bounded_number_of_slices(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(f"{number}\n")
    source = opened(tmp_path)
    assert [len(piece) for piece in cut_rows(source, 1000)] == [256, 44]


def test_a_long_row_comes_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n" * 10 + "b" * 5000 + "\n" + "c\n" * 10)
    (tmp_path / "b.txt").write_text("d" * 200 + "\ne\n")
    assert cut_rows(opened(tmp_path), 100, 100) == [[10], [1], [10], [1], [1]]


def test_parts_of_a_row_group_are_decoded_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(numbers(10_000), tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet")
    begun: list[int] = []
    real = pq.ParquetFile.iter_batches

    def iter_batches(*args: Any, **options: Any) -> Any:
        begun.append(1)
        return real(*args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    for start in range(0, 10_000, 700):
        stop = min(start + 300, 10_000)
        table = source.read((Slice(0, start, stop, stop - start),))
        assert table.column("n").to_pylist() == [*range(start, stop)]
    assert len(begun) == 1
    assert source.read((Slice(0, 5, 7, 2),)).column("n").to_pylist() == [5, 6]
    assert len(begun) == 2


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "txt.gz"])
def test_several_threads_read_at_once_and_files_kept_open_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(opening, "MAX_OPEN_FILES", 2)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        write(folder / f"{number}.{ending}", numbers(1000, 1000 * number))
    source = opened(folder)
    with source.splitter() as splitter:
        splits = list(splitter.available(130, PLENTY))
    order = random.Random(7).sample(range(len(splits)), len(splits))
    with ThreadPoolExecutor(6) as pool:
        tables = dict(zip(order, pool.map(lambda at: source.read(splits[at].slices), order), strict=True))
    texts = [text for at in range(len(splits)) for text in tables[at].column("text").to_pylist()]
    assert texts == [f"row {n}" for n in range(5000)]


def write(path: Path, table: pa.Table) -> None:
    ending = path.name.partition(".")[2]
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=400)
    elif ending == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=400)
    elif ending == "jsonl":
        path.write_text("".join(f'{{"n": {row["n"]}, "text": "{row["text"]}"}}\n' for row in table.to_pylist()))
    else:
        with pa.CompressedOutputStream(str(path), "gzip") as out:
            out.write("".join(text + "\n" for text in table.column("text").to_pylist()).encode())


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def write_again(path: Path) -> None:
    os.utime(path, (1, 1))


def vanish(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "txt.gz"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(grow, "bytes and now has"), (write_again, "it was written again"), (vanish, "does not exist")],
)
def test_a_file_that_changed_since_it_was_described_is_named(
    tmp_path: Path, ending: str, change: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / f"a.{ending}"
    write(path, numbers(1000))
    source = opened(path)
    split = source.splitter().next_split(100, PLENTY)
    assert isinstance(split, InputSplit)
    source.read(split.slices)
    change(path)
    with pytest.raises(InvalidSource, match=message) as caught:
        source.splitter(split.cursor).next_split(100, PLENTY)
    assert str(path) in caught.value.message
    if ending != "txt.gz":  # its rows lie in the blob store by now
        with pytest.raises(InvalidSource, match=message):
            source.read(split.slices)


def test_a_file_that_became_a_link_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("abc\n")
    (root / "a.txt").write_text("xyz\n")
    source = opened(root / "a.txt", Locations([str(root)]))
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(InvalidSource, match="is outside"):
        source.splitter().next_split(1, 1)
    with pytest.raises(InvalidSource, match="is outside"):
        source.read((Slice(0, 0, 4, 1, 1),))


def test_an_arrow_file_of_many_batches_is_read_across_them(tmp_path: Path) -> None:
    for codec in (None, "lz4", "zstd"):
        path = tmp_path / f"{codec}.arrow"
        options = pa.ipc.IpcWriteOptions(compression=codec)
        table = numbers(1000)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
            for start, stop in ((0, 3), (3, 3), (3, 500), (500, 1000)):
                writer.write_batch(table.to_batches()[0].slice(start, stop - start))
        source = opened(path)
        for start, stop in ((0, 1), (2, 4), (0, 1000), (499, 501), (999, 1000)):
            table = source.read((Slice(0, start, stop, stop - start),))
            assert table.column("n").to_pylist() == [*range(start, stop)]


def test_reading_nothing_gives_an_empty_table_of_the_schema(tmp_path: Path) -> None:
    for ending in ("parquet", "jsonl"):
        write(tmp_path / f"a.{ending}", numbers(3))
        source = opened(tmp_path / f"a.{ending}")
        assert source.read(()).schema == source.schema
        assert source.read(()).num_rows == 0


def test_rows_of_an_arrow_file_outlive_it_even_if_it_is_cut_short(tmp_path: Path) -> None:
    code = """
        import os, sys
        import pyarrow as pa
        from batchmill.errors import InvalidSource
        from batchmill.jobs.job import FileSource
        from batchmill.jobs.shard import Slice
        from batchmill.sources import describe, open_source
        from batchmill.storage.blobs import BlobStore
        from batchmill.storage.locations import UNRESTRICTED, Locations

        path, anywhere = sys.argv[1], Locations(UNRESTRICTED)
        table = pa.table({"n": range(200_000)})
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
        source = open_source(
            describe(FileSource(path=path), anywhere), anywhere, BlobStore.open(f"{path}.blobs", anywhere), "staged"
        )
        rows = source.read((Slice(0, 0, 200_000, 200_000),))
        os.truncate(path, 1000)
        assert rows.to_pylist() == table.to_pylist()
        try:
            source.read((Slice(0, 0, 200_000, 200_000),))
        except InvalidSource as error:
            print(error.message)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "a.arrow")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "a.arrow changed since the job was submitted" in done.stdout
