"""Digests of rows: equal rows have equal ones, others do not, whatever type and layout their columns have."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill_worker.row_cache.digests import content_digests, key_digests

SPACE = b"space"

COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "bool": (pa.bool_(), [True, False]),
    "int8": (pa.int8(), [0, 1, -1]),
    "uint64": (pa.uint64(), [0, 2**63]),
    "float": (pa.float64(), [0.0, 1.5, -2.0]),
    "half": (pa.float16(), [np.float16(0), np.float16(1)]),
    "text": (pa.string(), ["", "a", "b", "ab", "é"]),
    "large text": (pa.large_string(), ["", "a", "ab"]),
    "view": (pa.string_view(), ["", "a", "a text that is too long to lie inline"]),
    "bytes": (pa.binary(), [b"", b"\0", b"\0\0"]),
    "digest": (pa.binary(3), [b"abc", b"\0\0\0"]),
    "none wide": (pa.binary(0), [b""]),
    "date": (pa.date32(), [datetime.date(2020, 1, 1), datetime.date(1970, 1, 1)]),
    "moment": (pa.timestamp("ns"), [0, 1, 10**18]),
    "decimal": (pa.decimal128(10, 2), [decimal.Decimal("0.00"), decimal.Decimal("1.50")]),
    "vector": (pa.list_(pa.float32(), 2), [[0.0, 0.0], [1.0, 2.0]]),
    "holey vector": (pa.list_(pa.float32(), 2), [[0.0, None], [None, 0.0]]),
    "flags": (pa.list_(pa.bool_(), 2), [[True, False], [False, False]]),
    "list": (pa.list_(pa.string()), [[], [""], ["a", "b"], ["ab"]]),
    "struct": (pa.struct({"a": pa.int32(), "b": pa.string()}), [{"a": 0, "b": ""}, {"a": None, "b": "x"}]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    "null": (pa.null(), []),
}


def table_of(kind: pa.DataType, values: list[Any]) -> pa.Table:
    return pa.table({"n": pa.array([7] * len(values)), "x": pa.array(values, kind)})


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=30)
@given(data=st.data())
def test_rows_have_one_digest_exactly_if_they_are_equal(name: str, data: st.DataObject) -> None:
    kind, possible = COLUMNS[name]
    indices = data.draw(st.lists(st.integers(-1, len(possible) - 1), max_size=12))
    start = data.draw(st.integers(0, len(indices)))
    cut = data.draw(st.integers(0, len(indices)))
    table = table_of(kind, [None if index < 0 else possible[index] for index in indices])
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])

    digests = content_digests(chunked.slice(start), SPACE)

    assert [len(digest) for digest in digests] == [16] * (len(indices) - start)
    shown = indices[start:]
    for one, other in zip(range(len(shown)), reversed(range(len(shown))), strict=True):
        assert (digests[one] == digests[other]) == (shown[one] == shown[other])
    assert digests == content_digests(table, SPACE)[start:]


def test_the_bytes_of_a_null_do_not_matter() -> None:
    hidden = pa.Array.from_buffers(pa.int32(), 2, [pa.py_buffer(b"\x00"), pa.array([1, 2], pa.int32()).buffers()[1]])
    one, other = content_digests(pa.table({"x": hidden}), SPACE)
    assert one == other


def test_values_do_not_run_into_the_column_beside_them() -> None:
    one, other = content_digests(pa.table({"a": ["x", "xy"], "b": ["yz", "z"]}), SPACE)
    assert one != other


@pytest.mark.parametrize(
    "other",
    [
        pa.table({"b": ["x"]}),
        pa.table({"a": pa.array(["x"], pa.large_string())}),
        pa.table({"a": ["x"], "b": ["x"]}),
        pa.table({"a": [b"x"]}),
    ],
)
def test_columns_of_other_names_or_types_make_other_rows(other: pa.Table) -> None:
    assert content_digests(pa.table({"a": ["x"]}), SPACE) != content_digests(other, SPACE)


def test_another_space_makes_other_digests() -> None:
    table = pa.table({"a": ["x"]})
    assert content_digests(table, b"one") != content_digests(table, b"two")
    assert key_digests([{}], lambda _: "k", b"one") != key_digests([{}], lambda _: "k", b"two")


def test_rows_without_columns_are_equal() -> None:
    one, other, third = content_digests(pa.table({"a": [1, 2, 3]}).select([]), SPACE)
    assert one == other == third


def test_a_key_is_what_rows_share() -> None:
    rows = [{"id": 1, "k": "x"}, {"id": 2, "k": "x"}, {"id": 3, "k": b"x"}, {"id": 4, "k": "y"}]
    digests = key_digests(rows, lambda row: row["k"], SPACE)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_rows_whose_key_raises_are_equal_to_no_other_row() -> None:
    digests = key_digests([{}, {}, {"k": 5}], lambda row: row["k"], SPACE)
    assert len({*digests, *key_digests([{}], lambda row: row["k"], SPACE)}) == 4
