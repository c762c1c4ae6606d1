"""Rows of a job as a store gets them: each with an id that is the same whenever it is written again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.columns.lineage import SOURCE_PATH, SOURCE_ROW
from batchmill.errors import InvalidRows
from batchmill.jobs.sink import GENERATION, ID, OWN_COLUMNS, ROOT
from batchmill.operators.contract import RowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from batchmill.jobs.sink import SinkSpec

Errors = dict[int, RowError]
SHOWN_COLUMNS = 12

_UUID_BYTES, _UUID_CHARS = 16, 36
_HEX_PLACES = [place for place in range(_UUID_CHARS) if place not in (8, 13, 18, 23)]


def stored_rows(
    rows: pa.Table, lineage: pa.Table, sink: SinkSpec, job: str, dimension: int | None = None
) -> tuple[pa.Table, Errors]:
    """Return the rows to be stored, and the errors of the others by their place.

    The vectors are a fixed_size_list<float32>, all of the length `dimension`; None: the most frequent one. Raises
    `InvalidRows` for a column that is missing, or one that cannot be an id.
    """
    _require(rows, [sink.vector, *([sink.id] if sink.id else []), *(sink.columns or [])])
    vectors, errors = _vectors(rows[sink.vector].combine_chunks(), dimension)
    usable = np.delete(np.arange(rows.num_rows), list(errors))
    roots = lineage[SOURCE_ROW] if sink.id is None else rows[sink.id]
    keys = _keys(roots, sink)
    errors |= {
        place: RowError(f"the column {sink.id!r}, which says which document a row is from, has no value.")
        for place, key in enumerate(keys)
        if key is None and place not in errors
    }
    paths = lineage[SOURCE_PATH].to_pylist() if SOURCE_PATH in lineage.column_names else [()] * len(keys)
    if errors:
        kept = np.delete(np.arange(rows.num_rows), list(errors))
        vectors = vectors.take(pa.array(np.searchsorted(usable, kept)))
        rows = rows.take(pa.array(kept))
        keys, paths = [keys[place] for place in kept.tolist()], [paths[place] for place in kept.tolist()]
    names = [name for name in (sink.columns or rows.column_names) if name not in (sink.vector, *OWN_COLUMNS)]
    columns: dict[str, Any] = {
        ID: row_ids(keys, paths),
        ROOT: pa.array(keys, pa.string()),
        GENERATION: pa.repeat(job, len(keys)),
        sink.vector: vectors,
    }
    return pa.table(columns | {name: _plain(rows[name]) for name in names}), errors


def row_ids(roots: Sequence[str | None], paths: Sequence[Sequence[int]]) -> pa.StringArray:
    """Return the ids of rows: UUIDs of version 5, each made from a row's document and its path in it."""
    digests, new = bytearray(), hashlib.blake2b(digest_size=_UUID_BYTES).copy  # one made anew takes twice the time
    for root, path in zip(roots, paths, strict=True):
        text = f"{root}\0{'.'.join(map(str, path))}" if path else f"{root}\0"
        digest = new()
        digest.update(text.encode("utf-8", "surrogatepass"))
        digests += digest.digest()
    numbers = np.frombuffer(bytes(digests), np.uint8).reshape(-1, _UUID_BYTES).copy()
    numbers[:, 6] = numbers[:, 6] & 0x0F | 0x50
    numbers[:, 8] = numbers[:, 8] & 0x3F | 0x80
    signs = np.full((len(numbers), _UUID_CHARS), ord("-"), np.uint8)
    signs[:, _HEX_PLACES] = np.frombuffer(numbers.tobytes().hex().encode(), np.uint8).reshape(-1, 2 * _UUID_BYTES)
    ends = np.arange(len(numbers) + 1, dtype=np.int32) * _UUID_CHARS
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(ends), pa.py_buffer(signs))


def conform(rows: pa.Table, schema: pa.Schema, vector: str) -> pa.Table:
    """Return rows in the schema that the job's other rows have; a column that they lack is null.

    Raises `InvalidRows` for a column that it does not have, or whose values do not fit.
    """
    extra = [name for name in rows.column_names if name not in schema.names]
    if extra:
        raise InvalidRows(
            f"rows have a column {extra[0]!r}, which those stored before lack: {_listed(schema.names)}.",
            hint="Name the columns to store: sink.columns.",
            column=extra[0],
        )
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            columns.append(rows[field.name].cast(field.type))
        except pa.ArrowException as error:
            what = "vectors" if field.name == vector else "values"
            raise InvalidRows(
                f"the column {field.name!r} has {what} of the type {rows[field.name].type}, those stored before are "
                f"{field.type}: {error}.",
                hint="Choose another name for the index, or mode='replace'.",
                column=field.name,
            ) from error
    return pa.table(columns, schema=schema)


def _keys(roots: pa.ChunkedArray, sink: SinkSpec) -> list[str | None]:
    """Return the documents' ids as texts. Raises `InvalidRows` for a column of lists or objects."""
    try:
        found: list[str | None] = roots.cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise InvalidRows(
            f"the column {sink.id!r} has values of the type {roots.type}, which cannot be ids of documents.",
            hint="Name a column of texts or numbers as sink.id.",
            column=sink.id,
        ) from error
    return found


def _vectors(column: pa.Array, dimension: int | None) -> tuple[pa.FixedSizeListArray, Errors]:
    """Return the usable vectors as float32, and the errors of the others by place."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or _is_fixed(column.type)):
        raise InvalidRows(f"vectors are of the type {column.type}, expected lists of numbers.")
    values, lengths = column.flatten(), np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    usual = dimension or _usual(lengths)
    numbers = np.asarray(values.cast(pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32)
    bad = {
        place: RowError(f"its vector has {lengths[place]} numbers, those of other rows {usual}.")
        for place in np.flatnonzero(lengths != usual).tolist()
    }
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    alike = np.flatnonzero(lengths == usual)
    matrix = numbers.reshape(-1, usual) if not bad else _gathered(numbers, offsets[alike], usual)
    finite = _finite(matrix)
    bad |= {place: RowError("its vector has a number that is not finite.") for place in alike[~finite].tolist()}
    usable = matrix if finite.all() else np.ascontiguousarray(matrix[finite])
    return pa.FixedSizeListArray.from_arrays(pa.array(usable.reshape(-1), pa.float32()), usual), bad


def _finite(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return for each row whether all its numbers are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = matrix @ np.ones(matrix.shape[1], np.float32)
    # A sum is finite only if all numbers are. It may exceed the largest number without that, which is seldom.
    found: npt.NDArray[np.bool_] = np.isfinite(sums)
    return found if found.all() else np.asarray(np.isfinite(matrix).all(axis=1))


def _usual(lengths: npt.NDArray[np.int64]) -> int:
    """Return the most frequent length of those that have numbers; 1 if none has."""
    filled = lengths[lengths > 0]
    return int(np.bincount(filled).argmax()) if filled.size else 1


def _gathered(numbers: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.float32]:
    return np.asarray(numbers[starts[:, None] + np.arange(size)], dtype=np.float32)


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in a type that stores have: dictionaries are decoded."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _require(rows: pa.Table, names: list[str]) -> None:
    missing = next((name for name in names if name not in rows.column_names), None)
    if missing is not None:
        raise InvalidRows(
            f"the sink needs the column {missing!r}; the rows have: {_listed(rows.column_names)}.",
            hint="An operator before the sink must make it, or pass it through (carry).",
            column=missing,
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_COLUMNS]) + (" …" if len(names) > SHOWN_COLUMNS else "")
