from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from batchmill.columns import MixedValuesError, array_as, array_of

NOON = datetime.fromisoformat("2024-01-01T12:00")
AWARE = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
FINE = pd.Timestamp("2024-01-01 00:00:00.000000001")


@pytest.mark.parametrize(
    ("values", "mixture"),
    [
        ([NOON, AWARE], "times with and without a time zone"),
        ([AWARE, None, NOON], "times with and without a time zone"),
        ([date(2024, 1, 1), NOON], "dates and times"),
        ([time(1, tzinfo=UTC)], "a time of day with a time zone"),
        ([b"x", "x"], "text and bytes"),
        (["x", b"x"], "text and bytes"),
        (["x", bytearray(b"x")], "text and bytes"),
    ],
)
@pytest.mark.parametrize("shape", ["plain", "in lists", "in one list", "in dicts", "in lists of dicts"])
def test_values_that_arrow_would_change_are_refused_at_any_depth(values: list[Any], mixture: str, shape: str) -> None:
    shaped = {
        "plain": values,
        "in lists": [None, *([value] for value in values)],
        "in one list": [values],
        "in dicts": [{"at": value} for value in values],
        "in lists of dicts": [[{"at": value}] for value in values],
    }[shape]
    with pytest.raises(MixedValuesError, match=f"^{mixture}$"):
        array_of(shaped)


@pytest.mark.parametrize(
    "values",
    [
        [NOON, None, datetime.fromisoformat("0001-01-01T00:00")],
        [AWARE, datetime(2024, 6, 1, tzinfo=UTC)],
        [date(2024, 1, 1), None],
        [time(1), time(2, 3, 4, 5)],
        ["x", None, "ü"],
        [b"x", None],
        [[b"x"], None, []],
        [{"a": "x", "b": [NOON]}, {"a": None}, None],
        [2**63, None, 0],
        [1, 0.5, None],
        [{"a": 1}, {"b": True}],
        [[], [["x"], None]],
    ],
)
def test_values_of_one_kind_are_what_they_were(values: list[Any]) -> None:
    assert list(map(_without_nulls, array_of(values).to_pylist())) == list(map(_without_nulls, values))


def _without_nulls(value: Any) -> Any:
    return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


def test_integers_beyond_int64_are_unsigned_and_others_are_refused() -> None:
    assert array_of([2**64 - 1, 1]).type == pa.uint64()
    for values in ([2**64], [2**63, -1], [2**63, True], [2**63, 0.5], [[2**63]]):
        with pytest.raises((OverflowError, TypeError, pa.ArrowInvalid)):
            array_of(values)


def test_nanoseconds_of_pandas_are_kept_or_refused() -> None:
    column = array_of([FINE, None, pd.Timestamp("1999-12-31")])
    assert column.type == pa.timestamp("ns")
    assert column.cast(pa.int64())[0].as_py() == FINE.value
    assert array_of([pd.Timedelta(1, "ns")]).cast(pa.int64()).to_pylist() == [1]
    with pytest.raises(MixedValuesError, match="nanoseconds"):
        array_of([[FINE]])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2.5, pa.int64()),
        ([1, 2.5], pa.list_(pa.int32())),
        ({"a": [{"b": 2.5}]}, pa.struct({"a": pa.list_(pa.struct({"b": pa.int64()}))})),
        (1.5, pa.timestamp("ms")),
    ],
)
def test_numbers_are_not_cut_to_fit_a_type_that_is_given(value: Any, kind: pa.DataType) -> None:
    with pytest.raises(MixedValuesError, match="fraction"):
        array_as([None, value], kind)


def test_values_that_fit_a_type_that_is_given_are_taken() -> None:
    assert array_as([3.0, 4, None], pa.int64()).to_pylist() == [3, 4, None]
    assert array_as([0.1], pa.float32()).type == pa.float32()
    assert array_as([{"a": 1, "b": 2.5}, {}], pa.struct({"a": pa.int64()})).to_pylist() == [{"a": 1}, {"a": None}]
