"""Whatever table goes into a part comes out again, in every format."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchmill.errors import InvalidOutput, StorageError
from batchmill.jobs.shard import ShardId
from batchmill.sinks import to_json_lines
from batchmill.sinks.part_records import PartRecords
from batchmill.sinks.parts import part_format
from batchmill.sinks.result_store import PartFiles
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from pathlib import Path

UNITS = ("s", "ms", "us", "ns")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def _integers(type_: pa.DataType, low: int, high: int) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    return type_, st.integers(low, high)


def _signed(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _floats(type_: pa.DataType, width: Any) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    values = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return type_, values.map(np.float16) if width == 16 else values


def _moments(unit: str, zone: str | None) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    bound = min(2**62, 50_000_000_000 * PER_SECOND[unit])  # within the years 0 to 9999
    return pa.timestamp(unit, zone), st.integers(-bound, bound)


SCALARS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    *(_integers(getattr(pa, f"int{bits}")(), *_signed(bits)) for bits in (8, 16, 32, 64)),
    *(_integers(getattr(pa, f"uint{bits}")(), 0, 2**bits - 1) for bits in (8, 16, 32, 64)),
    *(_floats(type_, width) for type_, width in ((pa.float16(), 16), (pa.float32(), 32), (pa.float64(), 64))),
    *((type_, TEXT) for type_ in (pa.string(), pa.large_string(), pa.string_view())),
    *((type_, st.binary(max_size=5)) for type_ in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    *(_moments(unit, zone) for unit in UNITS for zone in (None, "UTC", "Europe/Berlin")),
    *((pa.duration(unit), st.integers(*_signed(63))) for unit in UNITS),
    (pa.date32(), st.dates()),
    (pa.date64(), st.dates()),
    *((pa.time32(unit), st.integers(0, 86_400 * PER_SECOND[unit] - 1)) for unit in ("s", "ms")),
    *((pa.time64(unit), st.integers(0, 86_400 * PER_SECOND[unit] - 1)) for unit in ("us", "ns")),
    (pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3)),
    (pa.decimal256(50, 3), st.decimals(-(10**8), 10**8, places=3)),
]

Column = tuple[pa.DataType, st.SearchStrategy[Any]]


def _lists(column: Column) -> st.SearchStrategy[Column]:
    type_, values = column[0], column[1] | st.none()
    some = st.lists(values, max_size=3)
    kinds: list[Column] = [
        (pa.list_(type_), some),
        (pa.large_list(type_), some),
        (pa.list_(type_, 2), st.lists(values, min_size=2, max_size=2)),
        (pa.map_(pa.string(), type_), st.lists(st.tuples(TEXT, values), max_size=3)),
        (pa.struct({"a": type_, 'b "': pa.int8()}), st.fixed_dictionaries({"a": values, 'b "': st.integers(0, 9)})),
    ]
    return st.sampled_from(kinds)


VIEWS = (pa.string_view(), pa.binary_view())  # Arrow cannot write them into Parquet inside of something else
NESTABLE = [column for column in SCALARS if column[0] not in VIEWS]
COLUMNS = st.sampled_from(SCALARS) | st.recursive(
    st.sampled_from(NESTABLE), lambda inner: inner.flatmap(_lists), max_leaves=3
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))
    columns = {}
    for name in names:
        type_, values = draw(COLUMNS)
        drawn = draw(st.lists(values | st.none(), min_size=rows, max_size=rows))
        columns[name] = pa.array(drawn, type_)
    table = pa.table(columns)
    return pa.concat_tables([table, table.slice(draw(st.integers(0, rows)))])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BlobStore:
    return BlobStore.open(str(tmp_path_factory.mktemp("parts")), Locations(UNRESTRICTED)).unsealed()


SHARD = ShardId((0,))


def part_files(store: BlobStore, name: Any) -> PartFiles:
    """The part files of an output of that format."""
    return PartFiles(store, part_format(name), records=PartRecords(store, "job-1"))


@pytest.mark.parametrize("name", ["arrow", "parquet", "jsonl"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=tables())
def test_a_table_reads_back_as_it_was_written(store: BlobStore, name: Any, table: pa.Table) -> None:
    parts = part_files(store, name)
    parts.write(SHARD, 1, table)
    found = parts.read(SHARD, 1)
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found.equals(table)
    found.validate(full=True)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXT, "n": st.integers(*_signed(64)), "x": st.floats(width=32)})))
def test_lines_say_what_pythons_own_json_reads(rows: list[dict[str, Any]]) -> None:
    schema = pa.schema({"text": pa.string(), "n": pa.int64(), "x": pa.float32()})
    lines = to_json_lines(pa.Table.from_pylist(rows, schema)).decode().split("\n")
    assert lines.pop() == ""
    found = [json.loads(line) for line in lines]
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert [row["n"] for row in found] == [row["n"] for row in rows]
    expected = [row["x"] if math.isfinite(row["x"]) else None for row in rows]
    assert [None if row["x"] is None else float(np.float32(row["x"])) for row in found] == expected


def test_what_json_has_no_form_for_is_written_in_the_documented_one() -> None:
    moment = dt.datetime(2024, 2, 29, 12, 30, 5, 250_000, tzinfo=dt.UTC)
    table = pa.table(
        {
            "binary": pa.array([b"\x00\xff"]),
            "at": pa.array([moment], pa.timestamp("us", "Europe/Berlin")),
            "wall": pa.array([moment.replace(tzinfo=None)], pa.timestamp("ms")),
            "day": pa.array([moment.date()]),
            "time": pa.array([moment.time()], pa.time32("s")),
            "price": pa.array([decimal.Decimal("1.10")]),
            "took": pa.array([dt.timedelta(seconds=2)], pa.duration("ms")),
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
            "vector": pa.array([[0.1, math.nan, -math.inf]], pa.list_(pa.float32(), 3)),
            "kind": pa.array(["é"]).dictionary_encode(),
            "none": pa.nulls(1),
        }
    )
    expected = (
        '{"binary":"AP8=","at":"2024-02-29T12:30:05.250000Z","wall":"2024-02-29T12:30:05.250","day":"2024-02-29",'
        '"time":"12:30:05","price":"1.10","took":2000,"map":[{"key":"a","value":1}],"vector":[0.1,null,null],'
        '"kind":"é","none":null}\n'
    )
    assert to_json_lines(table).decode() == expected


@pytest.mark.parametrize("name", ["arrow", "parquet", "jsonl"])
def test_dictionary_columns_keep_their_type_and_values_across_chunks(store: BlobStore, name: Any) -> None:
    type_ = pa.dictionary(pa.int8(), pa.string())
    chunks = [pa.array(["a", None, "b"]).cast(type_), pa.array(["c", "a"]).cast(type_)]
    parts = part_files(store, name)
    parts.write(SHARD, 1, pa.table({"kind": pa.chunked_array(chunks)}))
    found = parts.read(SHARD, 1)
    assert found.schema.field("kind").type == type_
    assert found["kind"].to_pylist() == ["a", None, "b", "c", "a"]


@pytest.mark.parametrize("name", ["arrow", "parquet", "jsonl"])
def test_extension_types_and_metadata_survive(store: BlobStore, name: Any) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    schema = pa.schema([pa.field("t", tensors.type, metadata={"unit": "m"})], metadata={"model": "m1"})
    parts = part_files(store, name)
    parts.write(SHARD, 1, pa.table([tensors], schema=schema))
    found = parts.read(SHARD, 1)
    assert found.schema.equals(schema, check_metadata=True)
    assert found["t"].combine_chunks().to_numpy_ndarray().tolist() == tensors.to_numpy_ndarray().tolist()


def test_embeddings_in_parquet_keep_their_type_for_any_reader(store: BlobStore) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(768, dtype=np.float32)), 384)
    parts = part_files(store, "parquet")
    parts.write(SHARD, 2, pa.table({"embedding": vectors}))
    found = pq.read_table(store.location(parts.name_of(SHARD, 2)).path)
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert found["embedding"].combine_chunks().equals(vectors)


UNION = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("parquet", UNION, "union"),
        ("jsonl", UNION, "the type sparse_union"),
        ("jsonl", pa.array([2**60], pa.timestamp("s")), "outside the years 0 to 9999"),
        ("jsonl", pa.array([4_000_000], pa.date32()), "outside the years 0 to 9999"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(
    tmp_path: Path, name: Any, column: pa.Array, reason: str
) -> None:
    store = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    with pytest.raises(InvalidOutput, match=reason):
        part_files(store, name).write(SHARD, 1, pa.table({"x": column}))
    assert store.list() == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_columns_of_one_name_are_refused_in_json_lines(store: BlobStore) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(InvalidOutput, match="two columns are called 'x'"):
        part_files(store, "jsonl").write(SHARD, 1, table)


@pytest.mark.parametrize("name", ["arrow", "parquet", "jsonl"])
def test_a_damaged_part_is_named(store: BlobStore, name: Any) -> None:
    parts = part_files(store, name)
    parts.write(SHARD, 3, pa.table({"x": [1, 2]}))
    store.put(parts.name_of(SHARD, 3), b'{"x": 1,')
    with pytest.raises(StorageError, match=f"part-00000000-a3.{name} is damaged"):
        parts.read(SHARD, 3)


def test_a_lines_part_without_its_schema_is_no_guess(store: BlobStore) -> None:
    parts = part_files(store, "jsonl")
    parts.write(SHARD, 4, pa.table({"x": [1, 2]}))
    PartRecords(store, "job-1").delete(parts.name_of(SHARD, 4))
    with pytest.raises(StorageError, match=r"could not read .*part-00000000-a4\.jsonl: .*_schemas/part-00000000-a4"):
        parts.read(SHARD, 4)
