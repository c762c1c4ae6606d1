"""Small data that unpacks to much: refused from its metadata, before anything is allocated."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.attack import Mill

ZEROS = 2**25  # 256 MiB of int64, twice what a request may unpack to
MAX_GROWTH_MIB = 256


def ipc(table: pa.Table, *, is_file: bool = False, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def zeros() -> pa.Table:
    return pa.table({"a": np.zeros(ZEROS, np.int64)})


def nulls() -> pa.Table:
    return pa.table({"a": pa.nulls(2**31 - 1)})


def dictionary() -> pa.Table:
    indices = pa.array(np.zeros(4_000_000, np.int8))
    return pa.table({"a": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 100_000]))})


def runs() -> pa.Table:
    return pa.table({"a": pa.RunEndEncodedArray.from_arrays(pa.array([9_000_000], pa.int32()), ["x" * 1000])})


def views() -> pa.Table:
    view = (100_000).to_bytes(4, "little") + b"xxxx" + bytes(8)  # length, prefix, buffer 0, offset 0
    buffers = [None, pa.py_buffer(view * 3_000), pa.py_buffer(b"x" * 100_000)]
    return pa.table({"a": pa.Array.from_buffers(pa.string_view(), 3_000, buffers)})


BOMBS: list[tuple[str, Callable[[], pa.Table], str | None]] = [
    ("zstd", zeros, "zstd"),
    ("lz4", zeros, "lz4"),
    ("null column", nulls, None),
    ("dictionary", dictionary, "zstd"),
    ("run-end", runs, None),
    ("views", views, None),
]


@pytest.mark.parametrize(("name", "make", "codec"), BOMBS, ids=[name for name, _, _ in BOMBS])
def test_rows_that_unpack_to_too_much_are_refused_in_a_request_and_as_a_part(
    mill: Mill, name: str, make: Callable[[], pa.Table], codec: str | None
) -> None:
    table = make()
    stream, file = ipc(table, compression=codec), ipc(table, is_file=True, compression=codec)
    before = mill.rss_mib()
    with mill.healthy():
        answers = [] if len(stream) > 6_000_000 else [mill.submit(rows_arrow=base64.b64encode(stream).decode())]
        answers.append(put_part(mill, file))
    assert {(answer.status, answer.code) for answer in answers} == {(413, "payload_too_large")}, name
    assert mill.rss_mib() - before < MAX_GROWTH_MIB


def put_part(mill: Mill, body: bytes) -> Any:
    upload = mill.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}).json["upload"]
    try:
        return mill.call("PUT", f"/v1/uploads/{upload}/parts/0", body)
    finally:
        assert mill.call("DELETE", f"/v1/uploads/{upload}").status == 204


@pytest.mark.parametrize("codec", ["zstd", "lz4", None])
def test_compressed_rows_within_the_limits_are_accepted_and_come_back(mill: Mill, codec: str | None) -> None:
    table = pa.table({"id": np.arange(200_000) % 1000, "text": ["some text"] * 200_000})
    upload = mill.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}).json["upload"]
    assert mill.call("PUT", f"/v1/uploads/{upload}/parts/0", ipc(table, is_file=True, compression=codec)).status == 204
    answer = mill.submit(source={"upload": upload, "parts": 1})
    job = mill.cluster.clients["a"].job(answer.json["id"])
    job.wait(timeout=90)
    assert job.to_table().equals(table)


@pytest.mark.parametrize("place", range(0, 1200, 40))
def test_a_part_with_altered_bytes_is_an_error_or_a_part_and_never_a_failure(mill: Mill, place: int) -> None:
    body = bytearray(ipc(pa.table({"a": [1, 2, 3], "b": ["x", "y", None]}), is_file=True, compression="zstd"))
    for step in range(4):
        body[(place + 7 * step) % len(body)] ^= 0xFF
    answer = put_part(mill, bytes(body))
    assert answer.status in (204, 413, 422)


@pytest.mark.parametrize("count", [100_000, 300_000])
def test_a_row_with_too_many_columns_is_refused_at_once(mill: Mill, count: int) -> None:
    body = {"operator": "echo", "rows": [{f"c{number}": 1 for number in range(count)}]}
    with mill.healthy():
        answer = mill.call("POST", "/v1/jobs", body)
    assert (answer.status, answer.code) == (422, "invalid_rows")


def test_a_csv_file_with_too_many_columns_is_refused(mill: Mill, tmp_path: Any) -> None:
    names = [f"c{number}" for number in range(100_000)]
    (tmp_path / "wide.csv").write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    with mill.healthy():
        answer = mill.submit(source={"path": str(tmp_path / "wide.csv")})
    assert (answer.status, answer.code) == (422, "invalid_source")
    assert "100,000 columns" in answer.json["error"]["message"]
