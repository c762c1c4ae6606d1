"""Edited rows: new values for columns of failed rows, turned from JSON into the columns' own types. Pure."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import array_as, rows_of
from batchmill.columns.carried_types import reserved_column
from batchmill.errors import InvalidRows, did_you_mean
from batchmill.jobs.dead_letters import BAD_VALUE, json_value
from batchmill.streams.base import BAD_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batchmill.jobs.dead_letters import DeadLetter, DeadRows
    from batchmill.jobs.replay import RowEdit

_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)


def edited(dead: DeadRows, edits: Mapping[int, RowEdit]) -> DeadRows:
    """Failed rows with their edits applied; values that are as the letter has them stay as they were read.

    A message of a stream that was no row has no columns: its edit makes them, with the types of its values. Raises
    `InvalidRows`, naming row and column, for an unknown column of other rows or a value that does not fit its type.
    """
    unfit = unfit_columns(dead)
    pieces = [
        _edited_row(dead.rows.slice(place, 1), letter, edits[letter.index], unfit.get(letter.index, ()))
        if letter.index in edits
        else dead.rows.slice(place, 1)
        for place, letter in enumerate(dead.letters)
    ]
    if not edits:
        return dead
    try:
        return replace(dead, rows=pa.concat_tables(pieces, promote_options="default"))
    except pa.ArrowException as error:
        raise InvalidRows(
            f"the edits give a column values of different types: {error}",
            hint="Give each column values of one type in all edits, or replay rows with another type by themselves.",
        ) from error


def unfit_columns(dead: DeadRows) -> dict[int, list[str]]:
    """Return the columns of failed rows, by index, whose value only the letter has: it is not of the column's type."""
    found = {}
    for place, letter in enumerate(dead.letters):
        if letter.error_type == BAD_VALUE:
            stored = json_value(rows_of(dead.rows.slice(place, 1))[0])
            names = [name for name in stored if name in letter.row and letter.row[name] != stored[name]]
            if names:
                found[letter.index] = names
    return found


def _edited_row(row: pa.Table, letter: DeadLetter, edit: RowEdit, unfit: Collection[str]) -> pa.Table:
    for name in unfit:
        if edit.row.get(name, letter.row[name]) == letter.row[name]:
            raise InvalidRows(
                f"the edit of row {edit.index} leaves column {name!r} the value {letter.row[name]!r:.80}, which is no "
                f"{row.schema.field(name).type} as in other rows.",
                hint="Give it a value of that type, or null.",
                row=edit.index,
                column=name,
            )
    for name, value in edit.row.items():
        if name not in row.column_names and letter.error_type == BAD_MESSAGE and reserved_column([name]) is None:
            row = row.append_column(name, _new_column(name, value, edit.index))
        elif name not in row.column_names:
            raise InvalidRows(
                f"the edit of row {edit.index} sets a column {name!r}, which the rows do not have.",
                hint=did_you_mean(name, row.column_names),
                row=edit.index,
                column=name,
            )
        elif name not in letter.row or letter.row[name] != value:
            field = row.schema.field(name)
            row = row.set_column(row.column_names.index(name), field, _value(value, field, edit.index))
    return row


def _new_column(name: str, value: Any, index: int) -> pa.Array:
    try:
        return pa.array([value])
    except _UNFIT as error:
        raise InvalidRows(
            f"the edit of row {index} gives column {name!r} the value {value!r:.80}, which has no type: {error}",
            row=index,
            column=name,
        ) from error


def _value(value: Any, field: pa.Field, index: int) -> pa.Array:
    try:
        if isinstance(value, str) and _is_binary(field.type):
            return pa.array([base64.b64decode(value, validate=True)], field.type)
        if isinstance(value, str) and not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            return pa.array([value]).cast(field.type)
        return array_as([value], field.type)
    except (*_UNFIT, binascii.Error) as error:
        raise InvalidRows(
            f"the edit of row {index} gives column {field.name!r} the value {value!r:.80}, which is no {field.type}.",
            hint="Binary values are base64, times ISO 8601, as `batchmill dead --json` shows them.",
            row=index,
            column=field.name,
        ) from error


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
