"""Every Arrow type against every way that rows take: each passes, or is refused with the column and the type named."""

from __future__ import annotations

import datetime
import decimal
import json
import re
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchmill.cli.exports import open_export
from batchmill.client.results import pages as paging
from batchmill.client.submitting.rows import upload_parts
from batchmill.columns import (
    ColumnTooLargeError,
    TypeConflictError,
    UnsupportedColumnError,
    carried_schema,
    carry,
    rows_of,
    values_of,
    widen_schemas,
    widen_table,
    widen_types,
)
from batchmill.errors import BatchmillError, InvalidOutput, InvalidRows
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardId
from batchmill.operators.contract import BatchFormat, OperatorDefinition
from batchmill.sinks import part_format, to_json_lines
from batchmill.sinks.part_records import PartRecords
from batchmill.sinks.result_store import PartFiles
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill.workspace import stream_from_table
from batchmill_worker.engine.batches import from_batch, to_batch

BATCH_FORMATS: list[BatchFormat] = ["rows", "arrow", "numpy"]
FORMATS = ["parquet", "jsonl", "arrow"]
TEXTS = pa.array(["a", None, "é"])
MOMENT_NS = 1_700_000_000_123_456_789


def _runs(values: pa.Array) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3], pa.int32()), values)


def _extension(kind: Any, storage: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(storage, kind.storage_type))


def _numbers() -> dict[str, pa.Array]:
    whole = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
    floats = [pa.float16(), pa.float32(), pa.float64()]
    made = {str(kind): pa.array([1, None, 3], kind) for kind in whole}
    made |= {str(kind): pa.array([np.float16(1), None, np.float16(0.5)], kind) for kind in floats}
    for name in ("decimal32", "decimal64", "decimal128", "decimal256"):
        made[name] = pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.25")], getattr(pa, name)(5, 2))
    return made


def _times() -> dict[str, pa.Array]:
    made = {"date32": pa.array([0, None, 19_000], pa.date32()), "date64": pa.array([0, None, 86_400_000], pa.date64())}
    for unit in ("s", "ms", "us", "ns"):
        made[f"timestamp {unit}"] = pa.array([1, None, 1_000_000_000], pa.timestamp(unit))
        made[f"timestamp {unit} tz"] = pa.array([1, None, 1_000_000_000], pa.timestamp(unit, "Europe/Berlin"))
        made[f"duration {unit}"] = pa.array([1, None, 5], pa.duration(unit))
        made[f"time {unit}"] = pa.array([1, None, 5], pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit))
    made["nanoseconds"] = pa.array([MOMENT_NS, None, 1], pa.timestamp("ns"))
    return made


def _bytes_and_texts() -> dict[str, pa.Array]:
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
    return {str(kind): TEXTS.cast(kind) for kind in kinds} | {
        "fixed_size_binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
        "bool": pa.array([True, None, False]),
        "null": pa.nulls(3),
    }


def _nested() -> dict[str, pa.Array]:
    lists = [["a", None], None, []]
    entries = [[("k", 1)], None, []]
    fields = [{"n": 1, "t": "x"}, None, {"n": None, "t": None}]
    item = pa.int16()
    kinds = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    return {kind.__name__: pa.array(lists, kind(pa.string())) for kind in kinds} | {
        "fixed_size_list": pa.array([[1, 2], None, [None, 4]], pa.list_(item, 2)),
        "vectors": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
        "map": pa.array(entries, pa.map_(pa.string(), item)),
        "struct": pa.array(fields, pa.struct({"n": item, "t": pa.string()})),
        "list of structs": pa.array([[{"n": 1}], None, []], pa.list_(pa.struct({"n": item}))),
        "list of nanoseconds": pa.array([[MOMENT_NS], None, []], pa.list_(pa.timestamp("ns"))),
        "empty struct": pa.array([{}, None, {}], pa.struct([])),
    }


def _encoded() -> dict[str, pa.Array]:
    words = pa.dictionary(pa.int8(), pa.string())
    return {
        "dictionary": pa.array(["a", None, "b"], words),
        "ordered dictionary": pa.array(["a", None, "b"])
        .dictionary_encode()
        .cast(pa.dictionary(pa.int8(), pa.string())),
        "dictionary with a null entry": pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), TEXTS[:2]),
        "dictionary of numbers": pa.array([1, None, 2]).dictionary_encode(),
        "dictionary of lists": pa.DictionaryArray.from_arrays(pa.array([0, None, 0]), pa.array([[1]])),
        "list of dictionaries": pa.array([["a"], None, ["b"]], pa.list_(words)),
        "struct of dictionaries": pa.StructArray.from_arrays([TEXTS.dictionary_encode()], ["w"]),
        "map to dictionaries": pa.array([[("k", "a")], None, []], pa.map_(pa.string(), words)),
        "run ends": _runs(TEXTS),
        "run ends of dictionaries": _runs(TEXTS.dictionary_encode()),
        "list of run ends": pa.ListArray.from_arrays([0, 1, 2, 3], _runs(TEXTS)),
        "list of views": pa.array([["a"], None, [None]], pa.list_(pa.string_view())),
        "view of list views": pa.array([[["a"]], None, []], pa.list_view(pa.list_view(pa.binary_view()))),
        "fixed_size_list of views": pa.array([["a"], None, [None]], pa.list_(pa.string_view(), 1)),
    }


def _extensions() -> dict[str, pa.Array]:
    return {
        "uuid": _extension(pa.uuid(), [b"0" * 16, None, b"1" * 16]),
        "json": _extension(pa.json_(pa.string()), ["{}", None, "[1]"]),
        "bool8": _extension(pa.bool8(), [1, None, 0]),
        "tensor": _extension(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], [3, 4], [5, 6]]),
        "opaque": _extension(pa.opaque(pa.binary(), "thing", "vendor"), [b"a", None, b"b"]),
    }


CARRIED = _numbers() | _times() | _bytes_and_texts() | _nested() | _encoded() | _extensions()
REFUSED = {
    "sparse union": pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), TEXTS]),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), TEXTS]
    ),
    "interval": pa.array([(1, 2, 3), None, (0, 0, 0)], pa.month_day_nano_interval()),
    "list of intervals": pa.array([[(1, 2, 3)], None, []], pa.list_(pa.month_day_nano_interval())),
}
carried_types = pytest.mark.parametrize("array", CARRIED.values(), ids=CARRIED.keys())
refused_types = pytest.mark.parametrize("array", REFUSED.values(), ids=REFUSED.keys())


def _definition(batch_format: BatchFormat) -> OperatorDefinition:
    return OperatorDefinition("back", make=cast("Any", None), params=BaseModel, batch_format=batch_format)


def _carried(array: pa.Array) -> pa.Table:
    return carry(pa.table({"v": pa.chunked_array([array.slice(0, 1), array.slice(1)])}))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))


def _same(found: list[Any], expected: list[Any]) -> bool:
    """Whether two columns of values are the same; numpy's arrays and scalars count as what they hold."""
    return repr(_plain(found)) == repr(_plain(expected))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


@carried_types
def test_a_carried_column_has_the_values_that_it_had_before(array: pa.Array) -> None:
    table = _carried(array)
    table.validate(full=True)
    before = values_of(array) if array.type == table.schema.field("v").type else array.to_pylist()
    assert _same(values_of(table["v"]), before)
    assert carry(table) is table, "what is carried is carried as it is"
    assert _same(values_of(table.take(pa.array([2, 0]))["v"]), [before[2], before[0]])
    assert table.schema.empty_table().num_rows == 0


@carried_types
def test_every_carried_type_passes_each_batch_format(array: pa.Array) -> None:
    table = _carried(array)
    for definition in map(_definition, BATCH_FORMATS):
        batch = to_batch(definition.batch_format, table)
        result = from_batch(definition, batch, 3).columns["v"]
        assert result.null_count == table["v"].null_count or pa.types.is_floating(result.type)
        assert carried_schema(pa.schema([("v", result.type)])).field("v").type == result.type


@carried_types
def test_every_carried_type_comes_back_from_rows_with_its_values(array: pa.Array) -> None:
    table = _carried(array)
    result = from_batch(_definition("rows"), to_batch("rows", table), 3).columns["v"]
    assert _same(values_of(result), values_of(table["v"]))


@carried_types
@pytest.mark.parametrize("name", FORMATS)
def test_every_carried_type_is_written_and_read_or_refused_by_name(
    store: BlobStore, array: pa.Array, name: Any
) -> None:
    table, form = _carried(array), part_format(name)
    if name == "parquet" and str(array.type) == "struct<>":
        with pytest.raises(InvalidOutput, match="'v' is struct<>, which parquet cannot hold"):
            form.check(table.schema)
        return
    form.check(table.schema)
    parts = PartFiles(store, form, records=PartRecords(store, "job-1"))
    parts.write(ShardId((0,)), 1, table)
    found = parts.read(ShardId((0,)), 1)
    assert found.schema.equals(table.schema)
    assert _same(values_of(found["v"]), values_of(table["v"]))


@carried_types
def test_every_carried_type_is_sent_and_read_back_by_the_client(array: pa.Array) -> None:
    sent = [part.table for part in upload_parts(pa.table({"v": array}))]
    table = paging.join(sent)
    assert table.schema.equals(carried_schema(pa.schema([("v", array.type)])))
    rows = [row for some in paging.dicts(table) for row in some]
    assert _same([row["v"] for row in rows], values_of(_carried(array)["v"]))
    assert to_json_lines(table).count(b"\n") == 3
    for file in ("out.parquet", "out.csv", "out.jsonl", "out.arrow"):
        assert _exports(table, file)


def _exports(table: pa.Table, name: str) -> bool:
    """Whether a file of the results can be written; a refusal must name the column."""
    kind = name.rpartition(".")[2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        try:
            with open_export(path) as export:
                export.write(_page(table, export.content_type))
                export.finish(path)
        except InvalidOutput as refused:
            return "'v'" in refused.message and kind in refused.message
        return path.stat().st_size > 0


def _page(table: pa.Table, content_type: str) -> paging.ResultPage:
    body = to_json_lines(table) if content_type == "jsonl" else stream_from_table(table)
    return paging.ResultPage(body, table.num_rows, "1", is_last=True, state=JobState.COMPLETED)


@refused_types
def test_other_types_are_refused_with_the_column_and_the_type(array: pa.Array) -> None:
    table = pa.table({"fine": [1, 2, 3], "v": array})
    with pytest.raises(UnsupportedColumnError, match=f"'v' is {re.escape(str(array.type))}"):
        carry(table)
    for rows in (table, table.to_reader(), [table.to_batches()[0]]):
        with pytest.raises(InvalidRows, match=f"column 'v'.*{re.escape(str(array.type))}"):
            list(upload_parts(rows))


def test_a_dictionary_that_decodes_to_gigabytes_is_refused_before_it_is_decoded() -> None:
    entries = pa.array([["x" * 1_000_000]])
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int16()), entries)
    with pytest.raises(ColumnTooLargeError, match="'v' takes more than"):
        carry(pa.table({"v": bomb}))


def test_dictionaries_of_several_chunks_are_sent_as_one() -> None:
    chunks = [
        TEXTS.dictionary_encode(),
        pa.array(["z", "a"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
    ]
    with pytest.raises(pa.ArrowException):
        pa.chunked_array(chunks)
    rows = [pa.table({"v": chunk}) for chunk in chunks]
    sent = list(upload_parts(rows))
    assert [row["v"] for part in sent for row in rows_of(part.table)] == ["a", None, "é", "z", "a"]
    assert all(part.as_file().size for part in sent)


def test_times_that_datetime_cannot_hold_become_numpys() -> None:
    far = pa.array([9_999_999, None], pa.date32())
    assert values_of(far) == [np.datetime64(9_999_999, "D"), None]
    assert values_of(pa.array([MOMENT_NS], pa.timestamp("ns"))) == [np.datetime64(MOMENT_NS, "ns")]
    assert values_of(pa.array([1], pa.time64("ns"))) == [np.timedelta64(1, "ns")]
    whole = values_of(pa.array([MOMENT_NS // 1000 * 1000], pa.timestamp("ns")))
    assert whole == [datetime.datetime(2023, 11, 14, 22, 13, 20, 123456)]  # noqa: DTZ001  # the column has no time zone
    assert type(whole[0]) is datetime.datetime


@pytest.mark.parametrize(
    ("known", "found", "widened"),
    [
        (pa.null(), pa.string(), pa.string()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.string()),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
        (pa.struct({"a": pa.int8()}), pa.struct({"b": pa.string()}), pa.struct({"a": pa.int8(), "b": pa.string()})),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.string(), pa.int64(), None),
        (pa.string(), pa.binary(), None),
        (pa.list_(pa.string()), pa.list_(pa.binary()), None),
        (pa.bool_(), pa.int64(), None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
    ],
    ids=str,
)
def test_types_widen_to_one_that_holds_both_or_to_none(known: Any, found: Any, widened: Any) -> None:
    assert widen_types(known, found) == widened
    assert widen_types(found, known) == widened or pa.types.is_struct(known)


def test_a_table_widens_to_a_schema_or_the_value_that_does_not_fit_is_named() -> None:
    known = pa.schema([("id", pa.int64()), ("score", pa.float64())])
    schema = widen_schemas(known, pa.schema([("score", pa.int64()), ("note", pa.string())]))
    assert schema == pa.schema([("id", pa.int64()), ("score", pa.float64()), ("note", pa.string())])
    table = widen_table(pa.table({"score": [1, 2]}), schema)
    assert rows_of(table) == [{"id": None, "score": 1.0, "note": None}, {"id": None, "score": 2.0, "note": None}]
    with pytest.raises(TypeConflictError, match="'score' is int64 here and double elsewhere: Integer value"):
        widen_table(pa.table({"score": [2**53 + 1]}), schema)
    with pytest.raises(TypeConflictError, match="'score' is string here and double elsewhere"):
        widen_schemas(known, pa.schema([("score", pa.string())]))


def test_results_whose_column_changes_its_kind_make_no_table_and_say_so() -> None:
    with pytest.raises(BatchmillError, match="'v' is string here and int64 elsewhere"):
        paging.join([pa.table({"v": [1]}), pa.table({"v": ["a"]})])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_every_float_in_json_lines_has_a_point_or_an_exponent(kind: pa.DataType) -> None:
    values = [1.0, 0.25, -0.0, 1024.0, None, 2.0**15] + ([] if kind == pa.float16() else [1e17, 1e30, -3e-9])
    array = pa.array(values, pa.float64()).cast(kind, safe=False)
    table = pa.table({"v": array, "nested": pa.array([[1.0, 2.5]] * len(values), pa.list_(pa.float64()))})
    lines = [json.loads(line, parse_int=str) for line in to_json_lines(table).splitlines()]
    assert all(isinstance(line["v"], float | None) for line in lines), "an integer would be text here"
    found = pa.array([line["v"] for line in lines], pa.float64()).cast(kind, safe=False)
    assert found.equals(array)
    assert all(line["nested"] == [1.0, 2.5] and isinstance(line["nested"][0], float) for line in lines)
