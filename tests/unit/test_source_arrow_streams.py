"""Arrow IPC streams: read batch after batch, whatever they hold; near formats are named."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import Source, describe, open_source
from batchmill.sources.columnar import arrow
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCATIONS = Locations(UNRESTRICTED)
DATA = Path(__file__).parent.parent / "data" / "sources"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def opened(path: Path, **options: Any) -> Source:
    blobs = BlobStore.open(f"{path.parent}/_blobs", LOCATIONS)
    return open_source(describe(FileSource(path=str(path), **options), LOCATIONS), LOCATIONS, blobs, "staged")


def read_all(source: Source, max_rows: int = 1000) -> list[dict[str, Any]]:
    with source.splitter() as splitter:
        splits = list(splitter.available(max_rows, 1 << 40))
    assert sum(split.rows for split in splits) == source.count("").rows
    return [row for split in splits for row in source.read(split.slices).to_pylist()]


def refusal(path: Path) -> InvalidSource:
    with pytest.raises(InvalidSource) as caught:
        opened(path)
    return caught.value


def write_stream(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema, **options: Any) -> Path:
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
    return path


def mixed_table(rows: int) -> pa.Table:
    return pa.table(
        {
            "n": range(rows),
            "text": [None if n % 7 == 3 else f"row {n}" for n in range(rows)],
            "deep": [{"tags": [f"t{n}"] * (n % 3)} for n in range(rows)],
        }
    )


@pytest.mark.parametrize(("version", "codec"), [("V4", None), ("V5", None), ("V5", "zstd"), ("V5", "lz4")])
@pytest.mark.parametrize("max_rows", [1, 13, 1000])
def test_a_stream_is_read_in_order_however_it_is_split(
    tmp_path: Path, version: str, codec: str | None, max_rows: int
) -> None:
    table = mixed_table(100)
    batches = table.to_batches(max_chunksize=17)
    batches.insert(2, pa.record_batch(table.schema.empty_table().to_pydict(), schema=table.schema))
    options = {"compression": codec, "metadata_version": pa.ipc.MetadataVersion[version]}
    path = write_stream(tmp_path / "a.arrow", batches, table.schema, **options)
    assert read_all(opened(path), max_rows) == table.to_pylist()
    assert read_all(opened(path, columns=["deep", "n"]), max_rows) == table.select(["deep", "n"]).to_pylist()


def test_a_stream_with_the_old_form_of_headers_is_read(tmp_path: Path) -> None:
    table = mixed_table(30)
    path = write_stream(tmp_path / "a.arrows", table.to_batches(10), table.schema, use_legacy_format=True)
    assert path.read_bytes()[:4] != b"\xff" * 4
    assert read_all(opened(path)) == table.to_pylist()


def test_dictionaries_that_are_replaced_or_continued_are_those_of_each_batch(tmp_path: Path) -> None:
    words = [["a", "b"], ["c", "a"], ["c", "a", "d"], ["x"]]
    batches = [
        pa.record_batch({"word": pa.array(some).dictionary_encode(), "n": pa.array(range(len(some)))}) for some in words
    ]
    for deltas in (False, True):
        options = {"emit_dictionary_deltas": deltas}
        path = write_stream(tmp_path / f"{deltas}.arrow", batches, batches[0].schema, **options)
        for max_rows in (1, 100):
            assert [row["word"] for row in read_all(opened(path), max_rows)] == [one for some in words for one in some]


def test_large_batches_are_mapped_and_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = mixed_table(100)
    path = write_stream(tmp_path / "a.arrow", table.to_batches(40), table.schema)
    monkeypatch.setattr(arrow, "MAX_COPIED_BYTES", 100)
    assert read_all(opened(path), 7) == table.to_pylist()
    assert read_all(opened(path, columns=["text"]), 7) == table.select(["text"]).to_pylist()


def test_memory_is_that_of_a_batch_not_of_the_stream(tmp_path: Path) -> None:
    batch = pa.record_batch({"n": np.arange(250_000)})
    path = write_stream(tmp_path / "a.arrow", [batch] * 50, batch.schema)
    source = opened(path)
    pool = pa.default_memory_pool()
    before, peak, rows = pool.bytes_allocated(), 0, 0
    tracemalloc.start()
    with source.splitter() as splitter:
        for split in splitter.available(250_000, 1 << 40):
            rows += source.read(split.slices).num_rows
            peak = max(peak, pool.bytes_allocated() - before)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 50 * 250_000
    assert peak + traced < 8 * batch.nbytes < path.stat().st_size / 5


def test_a_stream_and_a_file_can_be_one_source(tmp_path: Path) -> None:
    table = mixed_table(20)
    write_stream(tmp_path / "1.arrow", table.to_batches(), table.schema)
    with pa.ipc.new_file(tmp_path / "2.arrow", table.schema) as file:
        file.write_table(table)
    assert read_all(opened(tmp_path), 15) == [*table.to_pylist(), *table.to_pylist()]


def test_an_empty_stream_has_its_columns_and_no_rows(tmp_path: Path) -> None:
    path = write_stream(tmp_path / "a.arrow", [], pa.schema([("n", pa.int64())]))
    source = opened(path)
    assert source.schema == pa.schema([("n", pa.int64())])
    assert read_all(source) == []
    assert read_all(opened(DATA / "arrow_stream.arrow"))


def test_a_stream_that_is_cut_short_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    table = mixed_table(20)
    data = write_stream(tmp_path / "all.arrow", table.to_batches(5), table.schema).read_bytes()
    path = tmp_path / "cut.arrow"
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        assert str(path) in refusal(path).message
    path.write_bytes(data[:-8])
    assert "there is no mark of its end" in refusal(path).message
    path.write_bytes(data + b"more")
    assert "4 bytes follow its end" in refusal(path).message


def test_changed_bytes_give_a_refusal_or_rows_never_another_error(tmp_path: Path) -> None:
    table = mixed_table(20)
    data = write_stream(tmp_path / "a.arrow", table.to_batches(5), table.schema).read_bytes()
    path = tmp_path / "changed.arrow"
    for place in range(0, len(data), 11):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x5A]) + data[place + 1 :])
        with suppress(InvalidSource):
            read_all(opened(path), max_rows=1 << 62)  # a damaged batch may claim any number of rows


def test_feather_1_and_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(64) + b"FEA1")
    assert "version 1 of Feather" in refusal(tmp_path / "old.feather").message
    (tmp_path / "text.arrow").write_text("these are words, and no numbers")
    assert "neither an Arrow IPC file nor a stream" in refusal(tmp_path / "text.arrow").message


def test_a_saved_dataset_is_read_as_its_state_says(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_dict({"n": list(range(90)), "text": [f"row {n}" for n in range(90)]})
    folder = tmp_path / "saved"
    saved.save_to_disk(folder, num_shards=12)
    (folder / "cache-0123.arrow").write_bytes((folder / "data-00000-of-00012.arrow").read_bytes())
    assert read_all(opened(folder)) == saved.to_list()
    assert read_all(opened(folder, format="arrow")) == saved.to_list()
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    assert [row["n"] for row in read_all(opened(folder))][:8] == [*range(83, 90), 76]
    (folder / "data-00003-of-00012.arrow").unlink()
    assert "lists a file 'data-00003-of-00012.arrow', which is not in its folder" in refusal(folder).message


def test_the_splits_of_a_saved_dataset_are_read_one_by_one_or_together(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_dict({"n": [n] * 3}) for n, name in enumerate(("test", "train"))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    assert read_all(opened(tmp_path / "d" / "train")) == [{"n": 1}] * 3
    assert read_all(opened(tmp_path / "d")) == [{"n": 0}] * 3 + [{"n": 1}] * 3


def test_a_dataset_with_indices_of_its_own_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"n": [1, 2]}).save_to_disk(tmp_path / "d")
    state = json.loads((tmp_path / "d" / "state.json").read_text())
    (tmp_path / "d" / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "i.arrow"}]}))
    assert "flatten_indices()" in refusal(tmp_path / "d").hint


def test_files_about_the_data_are_passed_over_unless_they_may_be_data(tmp_path: Path) -> None:
    shutil.copy(DATA / "arrow_stream.arrow", tmp_path / "a.arrow")
    for name in ("README.txt", "LICENSE", "Thumbs.db", "dataset_info.json"):
        (tmp_path / name).write_text("about\n")
    only = read_all(opened(tmp_path / "a.arrow"))
    assert read_all(opened(tmp_path)) == only
    assert read_all(opened(tmp_path, format="arrow")) == only
    (tmp_path / "a.arrow").unlink()
    (tmp_path / "b.txt").write_text("data\n")
    assert read_all(opened(tmp_path)) == [{"text": "about"}, {"text": "data"}]
