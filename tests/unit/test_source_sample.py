"""Some rows of a source: the first ones, or a sample that does not depend on how the source is stored or split."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import RowCount, Source, describe, open_source
from batchmill.sources.describing import counting, scan
from batchmill.sources.sampling import BLOCK_ROWS, Sample
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from pathlib import Path

LOCATIONS = Locations(UNRESTRICTED)
ROWS = 150_000
PLENTY = 1 << 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in every format, each in two files."""
    folder = tmp_path_factory.mktemp("formats")
    for number, (start, stop) in enumerate([(0, 65_000), (65_000, ROWS)]):
        table = pa.table({"n": range(start, stop)})
        lines = "".join(f'{{"n": {n}}}\n' for n in range(start, stop)).encode()
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=20_000)
        with pa.ipc.new_file(folder / f"{number}.arrow", table.schema) as file:
            file.write_table(table, 7_000)
        (folder / f"{number}.jsonl").write_bytes(lines)
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines, 1))
        (folder / f"{number}.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(start, stop)))
    return folder


def opened(path: Path, **options: Any) -> Source:
    blobs = BlobStore.open(f"{path.parent}/_blobs", LOCATIONS)
    return open_source(describe(FileSource(path=str(path), **options), LOCATIONS), LOCATIONS, blobs, "jobs/1/staged")


def read_all(source: Source, max_rows: int = 1 << 20, max_bytes: int = PLENTY, *, reopen: bool = False) -> list[int]:
    """The rows of a source, split and read as planner and workers do. reopen: at the cursor of each split."""
    found: list[int] = []
    cursor = ""
    while True:
        with source.splitter(cursor) as splitter:
            for split in splitter.available(max_rows, max_bytes):
                rows = source.read(split.slices)["n"].to_pylist()
                assert 0 < len(rows) == split.rows <= max_rows
                found += rows
                cursor = split.cursor
                if reopen:
                    break
            else:
                return found


FORMATS = ["parquet", "arrow", "jsonl", "jsonl.gz", "csv"]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("sample", [0.03, 1500])
def test_a_sample_has_the_same_rows_in_every_format_and_however_it_is_split(
    folder: Path, ending: str, sample: float
) -> None:
    kind = Sample.fraction(sample, 7) if isinstance(sample, float) else Sample.number(sample, ROWS, 7)
    expected = kind.places(0, ROWS).tolist()
    assert 1400 < len(expected) < 4600
    source = opened(folder / f"*.{ending}", sample=sample, seed=7)
    assert source.count("") == RowCount(len(expected), exact=True)
    assert read_all(source) == expected
    assert read_all(source, max_rows=97, max_bytes=40_000, reopen=True) == expected


@pytest.mark.parametrize("ending", FORMATS)
def test_a_limit_reads_the_first_rows_and_opens_no_later_file(folder: Path, tmp_path: Path, ending: str) -> None:
    copies = [tmp_path / f"{number}.{ending}" for number in (0, 1)]
    for copy in copies:
        copy.write_bytes((folder / copy.name).read_bytes())
    source = opened(tmp_path / f"*.{ending}", limit=1234)
    copies[1].unlink()
    assert source.count("") == RowCount(1234, exact=True)
    assert read_all(source, max_rows=100, reopen=True) == list(range(1234))


def test_a_limit_takes_the_first_rows_of_a_sample(folder: Path) -> None:
    sample = read_all(opened(folder / "*.parquet", sample=0.5, seed=1))
    assert read_all(opened(folder / "*.parquet", sample=0.5, seed=1, limit=100), max_rows=7) == sample[:100]
    assert read_all(opened(folder / "*.parquet", sample=10, limit=100)) == read_all(
        opened(folder / "*.parquet", sample=10)
    )


def test_more_rows_than_there_are_is_all_rows(folder: Path) -> None:
    assert read_all(opened(folder / "*.csv", limit=ROWS + 1)) == list(range(ROWS))
    assert read_all(opened(folder / "*.csv", sample=ROWS + 1)) == list(range(ROWS))


def test_another_seed_gives_other_rows_and_another_fingerprint(folder: Path) -> None:
    path = str(folder / "*.parquet")
    described = [describe(FileSource(path=path, sample=100, seed=seed), LOCATIONS) for seed in (0, 1)]
    assert described[0].fingerprint != described[1].fingerprint
    samples = [read_all(opened(folder / "*.parquet", sample=100, seed=seed)) for seed in (0, 1)]
    assert len(samples[0]) == len(samples[1]) == 100
    assert len({*samples[0], *samples[1]}) > 150


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv"])
def test_a_large_text_source_is_counted_for_a_number_and_gives_the_rows_of_a_small_one(
    folder: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = read_all(opened(folder / f"*.{ending}", sample=100))
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 1000)
    monkeypatch.setattr(scan, "HEAD_BYTES", 1000)
    large = opened(folder / f"*.{ending}", sample=100)
    assert large.count("") == RowCount(100, exact=True)
    assert read_all(large) == small
    estimated = opened(folder / f"*.{ending}", sample=0.01)
    assert not estimated.count("").exact
    assert read_all(estimated) == Sample.fraction(0.01, 0).places(0, ROWS).tolist()


def test_counting_that_takes_too_long_is_refused_with_a_way_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 1000)
    monkeypatch.setattr(scan, "HEAD_BYTES", 1000)
    monkeypatch.setattr(counting, "MAX_COUNTING_S", 0.0)
    with pytest.raises(InvalidSource, match="counting the rows of the source takes longer") as caught:
        opened(folder / "*.jsonl", sample=100)
    assert "`sample` as a share" in caught.value.hint


def test_bad_lines_are_listed_at_their_place_in_the_sample(tmp_path: Path) -> None:
    lines = [json.dumps({"n": n}) if n % 3 else "broken" for n in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = opened(tmp_path / "a.jsonl", sample=100, on_bad_line="dead")
    expected = Sample.number(100, 1000, 0).places(0, 1000).tolist()
    with source.splitter() as splitter:
        (split,) = splitter.available(1000, PLENTY)
    found = source.read_with_faults(split.slices)
    assert found.table["n"].to_pylist() == [n if n % 3 else None for n in expected]
    bad = {place: n for place, n in enumerate(expected) if n % 3 == 0}
    assert 20 < len(bad) < 50
    assert [(one.place, one.line) for one in found.bad] == [(place, n + 1) for place, n in bad.items()]


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"sample": 0}, {"sample": 1.5}, {"sample": -0.1}, {"sample": 0.0}, {"seed": -1}]
)
def test_sizes_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FileSource(path="a", **options)


sizes = st.one_of(
    st.builds(Sample.fraction, st.floats(1e-9, 1, exclude_max=True), st.integers(0, 2**63 - 1)),
    st.builds(Sample.number, st.integers(1, 300_000), st.just(200_000), st.integers(0, 2**63 - 1)),
)


@given(sizes, st.integers(0, 199_999), st.integers(1, 5000))
def test_a_stop_has_the_rows_that_were_wanted_before_it(sample: Sample, start: int, wanted: int) -> None:
    stop = min(sample.stop(start, wanted), 200_000)
    places = sample.places(start, stop)
    assert start < stop
    assert (
        len(places)
        == sample.count(stop) - sample.count(start)
        == min(wanted, sample.count(200_000) - sample.count(start))
    )
    assert sorted(set(places.tolist())) == places.tolist()


def test_every_row_is_equally_likely() -> None:
    seeds, rows = 4000, 3 * BLOCK_ROWS
    hits = [0, 0, 0]
    for seed in range(seeds):
        for place in Sample.fraction(3.7e-6, seed).places(0, rows).tolist():
            hits[place // BLOCK_ROWS] += 1
    expected = seeds * BLOCK_ROWS * 3.7e-6
    assert all(abs(hit - expected) < 5 * expected**0.5 for hit in hits)


def test_rows_of_a_sample_are_found_in_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n}\n" for n in range(60)))
    (tmp_path / "b.txt").write_text("".join(f"{n}\n" for n in range(60, 100)))
    expected = Sample.number(20, 100, 0).places(0, 100).tolist()
    source = opened(tmp_path / "*.txt", sample=20, limit=19)
    with source.splitter() as splitter:
        (split,) = splitter.available(1000, PLENTY)
    wanted = [0, 3, 18]
    lines = [(expected[place] // 60, expected[place] % 60 + 1) for place in wanted]
    assert source.origins(split.slices, wanted) == [f"{tmp_path / 'ab'[file]}.txt, line {line}" for file, line in lines]


def test_a_split_of_any_number_of_rows_is_sampled_at_once() -> None:
    sample = Sample.fraction(1e-9, 0)
    stop = sample.stop(0, 64)
    assert sample.count(stop) == 64
    assert stop > 10**10
