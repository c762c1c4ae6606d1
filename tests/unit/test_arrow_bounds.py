"""What Arrow data declares of its size, and the limits on it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidRows, PayloadTooLarge
from batchmill_coordinator.inspection.arrow_bounds import MAX_NAME_BYTES, ArrowLimits, check_file, read_stream

LIMITS = ArrowLimits(max_rows=100_000, max_bytes=32 * 1024 * 1024, max_columns=10)


def ipc(table: pa.Table, *, is_file: bool = False, compression: str | None = None) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    new = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=1000)
    return sink.getvalue()


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_table_within_the_limits_is_read_as_it_was_written(compression: str | None) -> None:
    table = pa.table(
        {
            "id": np.arange(5_000),
            "text": ["some text"] * 5_000,
            "kind": pa.array(["a", "b"] * 2_500).dictionary_encode(),
            "list": [[1.0, 2.0], None] * 2_500,
            "struct": [{"x": 1, "y": "z"}] * 5_000,
        }
    )
    assert read_stream(ipc(table, compression=compression), LIMITS).equals(table)
    check_file(ipc(table, is_file=True, compression=compression), LIMITS)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.nulls(100_001)}),
        pa.table({"a": np.zeros(100_001, np.int8)}),
        pa.table({"a": [b"x" * 1000] * 90_000}),
        pa.table({"a": pa.DictionaryArray.from_arrays(np.zeros(1000, np.int8), ["x" * 100_000])}),
        pa.table({"a": pa.RunEndEncodedArray.from_arrays(pa.array([90_000], pa.int32()), ["x" * 1000])}),
    ],
    ids=["rows of nulls", "rows", "bytes", "dictionary", "runs"],
)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_table_over_a_limit_is_refused_as_stream_and_as_file(table: pa.Table, compression: str | None) -> None:
    with pytest.raises(PayloadTooLarge):
        read_stream(ipc(table, compression=compression), LIMITS)
    with pytest.raises(PayloadTooLarge):
        check_file(ipc(table, is_file=True, compression=compression), LIMITS)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (pa.schema([pa.field(f"c{n}", pa.int8()) for n in range(11)]), "11 columns"),
        (pa.schema([pa.field("x" * (MAX_NAME_BYTES + 1), pa.int8())]), "the name of column 0"),
    ],
)
def test_a_schema_over_a_limit_is_refused(schema: pa.Schema, said: str) -> None:
    with pytest.raises(InvalidRows, match=said):
        read_stream(ipc(schema.empty_table()), LIMITS)


def test_a_type_that_is_nested_too_deep_is_refused_with_its_column() -> None:
    kind: pa.DataType = pa.int8()
    for _ in range(40):
        kind = pa.list_(kind)
    with pytest.raises(InvalidRows, match="column 'deep' is nested more than 32 levels"):
        LIMITS.check_columns(pa.schema({"deep": kind}))


@pytest.mark.parametrize("is_file", [False, True])
def test_altered_bytes_never_raise_anything_but_what_is_promised(is_file: bool) -> None:
    data = ipc(pa.table({"a": [1, 2, 3], "b": ["x", "y", None]}), is_file=is_file, compression="zstd").to_pybytes()
    check = check_file if is_file else read_stream
    refused = 0
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 0xFF
        try:
            check(pa.py_buffer(bytes(altered)), LIMITS)
        except (InvalidRows, PayloadTooLarge, ValueError, OSError, pa.ArrowException):
            refused += 1
    assert refused > len(data) // 4
