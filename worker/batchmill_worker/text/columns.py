"""The text columns of a batch, row by row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa

from batchmill.errors import InvalidRows, did_you_mean
from batchmill.operators.contract import RowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Text: TypeAlias = str | tuple[str, str]
"""The input of a model for one row: a text, or a pair."""


def read_texts(
    batch: pa.Table,
    operator: str,
    column: str,
    parameter: str = "column",
    decode: Callable[[list[int]], str | RowError] | None = None,
) -> list[str | RowError]:
    """Read the texts of a column, with a `RowError` for each null.

    parameter: the operator's parameter that names the column. decode: makes text of the tokens of one; None: a column
    with lists of tokens is refused, like any other that is no text.

    Raises `InvalidRows` if there is no such column, or if it is not a text column.
    """
    if column not in batch.column_names:
        raise InvalidRows(
            f"operator {operator!r} reads the column {column!r}, which the rows do not have.",
            hint=f"{did_you_mean(column, batch.column_names)} Set the parameter {parameter!r}.",
            column=column,
        )
    values = batch.column(column)
    if decode is not None and _is_tokens(values.type):
        return [
            RowError(f"column {column!r} has a null, expected tokens") if one is None or None in one else decode(one)
            for one in values.to_pylist()
        ]
    if not _is_text(values.type):
        raise InvalidRows(
            f"operator {operator!r} expects text in column {column!r}, got {values.type}.",
            hint=f"Set the parameter {parameter!r} to a column of strings, or convert this one.",
            column=column,
        )
    texts: list[str | None] = values.to_pylist()
    return [RowError(f"column {column!r} is null, expected text") if text is None else text for text in texts]


def pair(firsts: Sequence[str | RowError], seconds: Sequence[str | RowError]) -> list[Text | RowError]:
    """Pair the texts of two columns; a `RowError` where either has one."""
    return [
        first if isinstance(first, RowError) else second if isinstance(second, RowError) else (first, second)
        for first, second in zip(firsts, seconds, strict=True)
    ]


def text_key(*texts: str | None) -> str:
    """Return a key that is equal for two rows exactly if these texts of theirs are equal."""
    if len(texts) == 1 and texts[0] is not None:
        return f"={texts[0]}"
    return json.dumps(texts, ensure_ascii=False)


def _is_tokens(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and pa.types.is_integer(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )
