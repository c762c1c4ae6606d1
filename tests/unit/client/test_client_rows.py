from __future__ import annotations

import gc
import itertools
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchmill.client.submitting.rows import MAX_PART_BYTES, UploadPart, check_rows, upload_parts
from batchmill.errors import InvalidRows

if TYPE_CHECKING:
    from collections.abc import Iterator


def _all(rows: Any) -> pa.Table:
    return pa.concat_tables([piece.table for piece in upload_parts(rows)], promote_options="permissive")


def _pieces(rows: Any) -> list[UploadPart]:
    check_rows(rows)
    return list(upload_parts(rows))


def _refused(rows: Any, *words: str) -> InvalidRows:
    with pytest.raises(InvalidRows) as caught:
        _pieces(rows)
    for word in words:
        assert word in str(caught.value)
    return caught.value


TABLE = pa.table({"id": pa.array([1, 2, 3], pa.int32()), "text": ["a", None, "c"]})


@pytest.mark.parametrize(
    "rows",
    [
        TABLE,
        TABLE.to_batches()[0],
        TABLE.to_reader(),
        [TABLE.slice(0, 1), TABLE.slice(1)],
        iter(TABLE.to_batches()),
        pa.StructArray.from_arrays(
            TABLE.combine_chunks().columns[0].chunks + TABLE.columns[1].chunks, TABLE.column_names
        ),
    ],
    ids=["table", "batch", "reader", "list of tables", "iterator of batches", "struct array"],
)
def test_arrow_data_in_any_wrapping_keeps_its_types_and_order(rows: Any) -> None:
    assert _all(rows).equals(TABLE)


def test_dicts_become_columns_with_null_where_a_key_is_missing() -> None:
    rows = [{"a": 1}, {"b": "x", "a": 2}, {"a": None, "c": [1.5]}]
    assert _all(rows).to_pylist() == [
        {"a": 1, "b": None, "c": None},
        {"a": 2, "b": "x", "c": None},
        {"a": None, "b": None, "c": [1.5]},
    ]


def test_dicts_and_tables_may_come_mixed_and_stay_in_order() -> None:
    rows = [{"id": 1}, pa.table({"id": [2, 3]}), {"id": 4}, {"id": 5}]
    assert _all(rows)["id"].to_pylist() == [1, 2, 3, 4, 5]


def test_many_rows_come_in_pieces_of_limited_size_in_order() -> None:
    rows = ({"id": i, "text": f"{i} " * 50} for i in range(100_000))
    made = list(upload_parts(rows))
    assert len(made) > 3
    assert all(piece.ipc_file is not None and piece.ipc_file.size < MAX_PART_BYTES * 1.1 for piece in made)
    assert [piece.first_row for piece in made] == [0, *itertools.accumulate(p.table.num_rows for p in made[:-1])]
    ids = itertools.chain.from_iterable(pa.ipc.open_file(p.ipc_file).read_all()["id"].to_pylist() for p in made)
    assert list(ids) == list(range(100_000))


def test_a_large_table_is_cut_without_losing_a_row() -> None:
    table = pa.table({"id": pa.array(range(400_000)), "text": ["some text that takes its place"] * 400_000})
    made = list(upload_parts(table))
    assert all(piece.ipc_file is not None and piece.ipc_file.size < MAX_PART_BYTES * 1.1 for piece in made)
    assert pa.concat_tables([piece.table for piece in made]).equals(table)


def test_an_endless_iterator_is_drawn_only_as_far_as_pieces_are_taken() -> None:
    drawn = itertools.count()
    made = upload_parts({"id": next(drawn), "text": "x" * 1000} for _ in itertools.repeat(None))
    next(made)
    assert next(drawn) < 20_000


def test_large_values_end_a_piece_before_they_fill_the_memory() -> None:
    gc.collect()
    before = pa.total_allocated_bytes()
    most = 0
    for piece in upload_parts({"image": bytes(1_000_000)} for _ in range(64)):
        most = max(most, pa.total_allocated_bytes() - before)
        assert piece.table.num_rows <= 8
    assert most < 6 * MAX_PART_BYTES


@pytest.mark.parametrize("shape", ["flat", "list", "dict", "chat", "image", "table"])
def test_rows_of_any_shape_are_held_only_up_to_a_piece(shape: str) -> None:
    size = 500_000

    def row(number: int) -> dict[str, Any]:
        text = f"{number:08}" * (size // 8)
        shapes: dict[str, dict[str, Any]] = {
            "flat": {"text": text},
            "list": {"texts": [text[: size // 2], text[size // 2 :]]},
            "dict": {"doc": {"title": "t", "body": {"text": text}}},
            "chat": {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
            "image": {"images": [{"bytes": text.encode(), "path": None}]},
            "table": {"cells": [[text[start : start + 1000]] for start in range(0, size, 1000)]},
        }
        return shapes[shape]

    drawn = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal drawn
        while drawn < 128:
            drawn += 1
            yield row(drawn)

    gc.collect()
    before = pa.total_allocated_bytes()
    taken = 0
    for piece in upload_parts(rows()):
        taken += piece.table.num_rows
        assert (drawn - taken) * size < 3 * MAX_PART_BYTES
        assert pa.total_allocated_bytes() - before < 6 * MAX_PART_BYTES
    assert taken == 128


def test_a_row_longer_than_a_piece_comes_alone() -> None:
    rows = [{"b": bytes(10)}, {"b": bytes(MAX_PART_BYTES * 2)}, {"b": bytes(10)}]
    assert [piece.table.num_rows for piece in upload_parts(rows)] == [1, 1, 1]


def test_a_column_widens_from_null_and_from_int() -> None:
    rows = [{"n": None, "x": 1}] * 5000 + [{"n": "text", "x": 1.5}] * 5000
    table = _all(rows)
    assert table.schema.types == [pa.string(), pa.float64()]
    assert table["x"].to_pylist() == [1.0] * 5000 + [1.5] * 5000


def test_views_are_sent_as_plain_text_and_bytes() -> None:
    view = pa.table({"t": pa.array(["a"], pa.string_view()), "b": pa.array([b"a"], pa.binary_view())})
    assert _all(view).schema.types == [pa.large_string(), pa.large_binary()]


def test_few_rows_ride_inline_and_many_do_not() -> None:
    (few,) = upload_parts([{"id": 1}])
    assert pa.ipc.open_stream(few.as_inline()).read_all().to_pylist() == [{"id": 1}]
    (many,) = upload_parts([{"id": i, "text": "x" * 50} for i in range(3000)])
    assert many.as_inline() is None


def test_no_rows_are_one_empty_piece_that_keeps_the_columns() -> None:
    (none,) = upload_parts([])
    assert none.as_inline() is not None
    (typed,) = upload_parts(TABLE.schema.empty_table())
    assert typed.table.schema.equals(TABLE.schema)


@pytest.mark.parametrize("path", ["docs.jsonl", Path("docs.jsonl"), b"docs.jsonl"])
def test_a_path_given_as_rows_is_told_to_go_to_source(path: object) -> None:
    _refused(path, "source=")


def test_one_dict_given_as_rows_is_refused() -> None:
    _refused({"text": ["a"]}, "one dict for each row")


def test_what_cannot_be_iterated_is_refused() -> None:
    _refused(7, "int")


def test_a_row_that_is_no_dict_is_named() -> None:
    error = _refused([{"a": 1}, {"a": 2}, ["a", 3]], "row 2", "list")
    assert error.details["row"] == 2


@pytest.mark.parametrize(
    ("good", "bad", "known", "came"),
    [
        (1, "x", "int64", "str ('x')"),
        ("x", 1, "string", "int (1)"),
        ("x", b"x", "string", "bytes"),
        (b"x", "x", "binary", "str ('x')"),
        (1, True, "int64", "bool"),
        (1.5, "x", "double", "str"),
        ([1], 1, "list<item: int64>", "int"),
    ],
)
@pytest.mark.parametrize("before", [3, 10_000], ids=["in one chunk", "in a later chunk"])
def test_a_value_of_another_kind_is_named_with_its_row_column_and_both_types(
    good: object, bad: object, known: str, came: str, before: int
) -> None:
    rows = itertools.chain([{"k": good}] * before, [{"k": good}, {"k": bad}])
    error = _refused(rows, f"row {before + 1},", "'k'", known, came)
    assert error.details == {"row": before + 1, "column": "k"}


def test_a_chunk_of_another_kind_is_named_by_its_first_value() -> None:
    rows = [{"k": 1}] * 4096 + [{"k": None}, {"k": "x"}]
    _refused(rows, "row 4097", "int64", "string")


def test_a_number_that_would_lose_digits_is_refused() -> None:
    rows = [{"k": 1.5}] * 4096 + [{"k": 2**60 + 1}]
    _refused(rows, "row 4096", "double")


def test_a_value_without_an_arrow_type_is_named() -> None:
    _refused([{"k": object()}], "row 0", "'k'", "object")


def test_a_key_that_is_no_text_is_named() -> None:
    _refused([{"a": 1}, {2: 1}], "row 1", "2", "int")


@pytest.mark.parametrize("rows", [[{}], [{}, {}], pa.table({"a": [1]}).select([])])
def test_rows_without_a_column_are_refused(rows: Any) -> None:
    _refused(rows, "row 0", "column")


def test_columns_of_one_name_are_refused() -> None:
    _refused(pa.table([[1], [2]], names=["a", "a"]), "two columns are called 'a'")


def test_an_array_without_columns_is_refused() -> None:
    _refused(pa.array([1, 2]), "row 0")


def test_an_error_of_the_iterator_passes_through() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise LookupError("the database went away")

    with pytest.raises(LookupError, match="went away"):
        list(upload_parts(rows()))


@pytest.mark.parametrize("large", [{"image": b"x" * 2**21}, {"id": 1, "image": b"x" * 2**21}], ids=["others", "more"])
def test_no_more_rows_are_taken_than_a_part_needs_when_they_become_large(large: dict[str, object]) -> None:
    taken = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in [{"id": 1}] * 1000 + [large] * 200:
            taken += 1
            yield row

    next(upload_parts(rows()))
    assert taken <= 1000 + 64 + 8


def test_values_that_would_change_are_refused_with_their_row() -> None:
    aware, naive = datetime(2024, 1, 1, tzinfo=UTC), datetime.fromisoformat("2024-01-01T00:00")
    for first, second, kinds in (
        (naive, aware, "times with and without a time zone"),
        ({"at": [aware]}, {"at": [naive]}, "times with and without a time zone"),
        (date(2024, 1, 1), naive, "dates and times"),
        ("text", b"bytes", "text and bytes"),
        ([b"bytes"], ["text"], "text and bytes"),
    ):
        rows = [{"x": first}] * 3 + [{"x": second}]
        assert _refused(rows, "'x'", kinds, type(second).__name__).details["row"] == 3
        assert _refused(iter([{"x": first}, pa.table({"y": [1]}), {"x": second}]), "row 2", "'x'").details["row"] == 2


def test_integers_beyond_int64_are_unsigned_as_in_files() -> None:
    assert _all([{"x": 2**63}, {"x": 1}]).schema.field("x").type == pa.uint64()
    assert _all([{"x": 1}, pa.table({"y": [1]}), {"x": 2**64 - 1}])["x"].to_pylist() == [1, None, 2**64 - 1]
    _refused([{"x": 2**63}, {"x": -1}], "row 1", "'x'", "-1")
    _refused([{"x": -1}, pa.table({"x": pa.array([2**63], pa.uint64())})], "'x'", "-1", "uint64")
    _refused([{"x": 2**53 + 1}, pa.table({"x": [0.5]})], "'x'", "int64", "double")


@pytest.mark.parametrize("kind", ["plain", "list", "struct"])
@pytest.mark.parametrize("count", [2, 40_000])
def test_categories_with_another_dictionary_in_each_chunk_are_sent(kind: str, count: int) -> None:
    made = []
    for labels in (["cat", "dog"], ["fish", "bird"]):
        column = pa.array(labels * (count // 2)).dictionary_encode()
        if kind == "list":
            column = pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), column)
        made.append(column if kind != "struct" else pa.StructArray.from_arrays([column], ["label"]))
    table = pa.table({"x": pa.chunked_array(made)})
    parts = _pieces(table)
    sent = [pa.ipc.open_file(part.as_file()).read_all() for part in parts]
    assert pa.concat_tables(sent)["x"].to_pylist() == table["x"].to_pylist()
    if count == 2:
        assert pa.ipc.open_stream(parts[0].as_inline()).read_all()["x"].to_pylist() == table["x"].to_pylist()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pl.List(pl.Categorical), [["a", "b"], None, ["c"]]),
        (pl.List(pl.Enum(["a", "b"])), [["a"], ["b"]]),
        (pl.Array(pl.Categorical, 2), [["a", "b"], ["c", "a"]]),
        (pl.Struct({"c": pl.Categorical}), [{"c": "a"}, {"c": None}]),
        (pl.List(pl.Categorical), []),
    ],
)
def test_categories_inside_other_types_of_polars_are_sent(kind: Any, values: list[Any]) -> None:
    assert _all(pl.DataFrame({"x": values}, schema={"x": kind}))["x"].to_pylist() == values


def test_objects_that_a_frame_cannot_convert_are_refused_with_their_column() -> None:
    _refused(pl.DataFrame({"x": [object()]}), "'x'", "Object")
    mixed = [datetime.fromisoformat("2024-01-01T00:00"), datetime(2024, 1, 1, tzinfo=UTC)]
    _refused(pd.DataFrame({"y": [1, 2], "x": pd.Series(mixed, dtype=object)}), "'x'", "with and without a time zone")
    _refused(pd.DataFrame({"x": pd.Series(["x", b"x"], dtype=object)}), "'x'", "text and bytes")
    _refused(pd.DataFrame({"x": [1, "x"]}), "'x'")
    assert _all(pd.DataFrame({"x": pd.Series([mixed[0], None, pd.NaT], dtype=object)}))["x"].to_pylist() == [
        mixed[0],
        None,
        None,
    ]
