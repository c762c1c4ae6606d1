"""Converts batches to an operator's own format (rows, Arrow or numpy) and back to Arrow, checking everything.

Output that does not fit is the operator's fault, not a row's: `InvalidOperator`, with what was expected and received.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchmill.columns import (
    ColumnTooLargeError,
    MixedValuesError,
    UnsupportedColumnError,
    array_of,
    carry,
    rows_of,
    values_of,
    widen_schemas,
    widen_table,
)
from batchmill.errors import InvalidOperator
from batchmill.operators.contract import Expansion, PartialResult, RowError
from batchmill.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.operators.contract import BatchFormat, OperatorDefinition

_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What pyarrow raises for values that it cannot put into a column."""


Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """An operator's output for one batch: columns of results, and an error for each row that failed."""

    rows: int  # results; each column has as many values
    columns: Mapping[str, pa.ChunkedArray]
    errors: Mapping[int, RowError] = field(default_factory=dict)  # by position in the batch
    counts: Counts | None = None  # of an operator that expands: the number of results of each row of the batch


def to_batch(batch_format: BatchFormat, table: pa.Table) -> Any:
    """Convert rows to the operator's batch format; see `BatchFormat`."""
    match batch_format:
        case "rows":
            return rows_of(table)
        case "arrow":
            return table
        case "numpy":
            return {name: _to_numpy(table.column(name)) for name in table.column_names}


def from_batch(definition: OperatorDefinition, output: Any, rows: int) -> BatchResult:
    """Check and convert what the operator returned for a batch of `rows` rows. Raises `InvalidOperator`."""
    if definition.batch_format == "rows":
        return _from_rows(definition, output, rows)
    if definition.expands:
        return _from_expansion(definition, output, rows)
    errors: Mapping[int, RowError] = {}
    if isinstance(output, PartialResult):
        errors = _checked_errors(definition, output.errors, rows)
        output = output.results
    columns_of = _from_arrow if definition.batch_format == "arrow" else _from_numpy
    expected = rows - len(errors)
    return BatchResult(expected, columns_of(definition, output, expected), errors)


def join(definition: OperatorDefinition, results: Sequence[BatchResult]) -> dict[str, pa.ChunkedArray]:
    """Concatenate the columns of several batches; a batch without a column has nulls in it.

    Types may differ if one of them holds all values of the others without loss (null, widths of numbers). Raises
    `InvalidOperator` otherwise.
    """
    names = dict.fromkeys(name for result in results for name in result.columns)
    joined = {}
    for name in names:
        pieces = [result.columns[name] if name in result.columns else _nulls(result.rows) for result in results]
        joined[name] = pieces[0] if len(pieces) == 1 else _join_column(definition, name, pieces)
    return joined


def _nulls(rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(rows)])


def _join_column(definition: OperatorDefinition, name: str, pieces: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    types = list(dict.fromkeys(piece.type for piece in pieces))
    try:
        if len(types) > 1:
            common = reduce(widen_schemas, [pa.schema([(name, kind)]) for kind in types])
            pieces = [widen_table(pa.table({name: piece}), common).column(0) for piece in pieces]
        chunks = [chunk for piece in pieces for chunk in piece.chunks]
        # one chunk, so that a file of the results is not written in as many pieces as there were batches
        return pa.chunked_array(pa.chunked_array(chunks, pieces[0].type).combine_chunks())
    except _UNFIT as error:
        _refuse(definition, f"column {name!r} of one type in every batch", " and ".join(map(str, types)), error)


def _from_rows(definition: OperatorDefinition, output: Any, rows: int) -> BatchResult:
    what = "lists of dicts" if definition.expands else "dicts"
    if not isinstance(output, list | tuple):
        _refuse(definition, f"a list of {rows} {what}", _kind(output))
    if len(output) != rows:
        raise InvalidOperator(
            f"operator {definition.name!r} returned {count(len(output), 'result')} for a batch of {count(rows)}.",
            hint=f"It must return a result or RowError for each row. Its batch_format is {definition.batch_format!r}.",
            operator=definition.name,
        )
    errors = {index: result for index, result in enumerate(output) if isinstance(result, RowError)}
    done = [result for result in output if not isinstance(result, RowError)] if errors else output
    counts = None
    if definition.expands:
        counts = np.array([_count(definition, result) for result in output], dtype=np.int64)
        done = [result for results in done for result in results]
    names: dict[Any, None] = {}
    for result in done:
        if not isinstance(result, dict):
            _refuse(definition, "a dict or a RowError for each row", _kind(result))
        names.update(dict.fromkeys(result))
    columns = {name: _column(definition, name, [result.get(name) for result in done]) for name in names}
    return BatchResult(len(done), columns, errors, counts)


def _count(definition: OperatorDefinition, results: Any) -> int:
    if isinstance(results, RowError):
        return 0
    if not isinstance(results, list | tuple):
        _refuse(definition, "a list of dicts or a RowError for each row", _kind(results))
    return len(results)


def _from_expansion(definition: OperatorDefinition, output: Any, rows: int) -> BatchResult:
    if not isinstance(output, Expansion):
        _refuse(definition, "an Expansion", _kind(output))
    errors = _checked_errors(definition, output.errors, rows)
    expected = f"Expansion.counts to be {rows} integers, at least 0, and 0 for a row in errors"
    try:
        counts = np.asarray(output.counts)
    except ValueError as error:
        _refuse(definition, expected, str(error), error)
    fits = counts.shape == (rows,) and (not rows or np.issubdtype(counts.dtype, np.integer)) and not np.any(counts < 0)
    if not fits or any(counts[index] for index in errors):
        _refuse(definition, expected, str(output.counts)[:100])
    total = int(counts.sum())
    columns_of = _from_arrow if definition.batch_format == "arrow" else _from_numpy
    return BatchResult(total, columns_of(definition, output.results, total), errors, counts.astype(np.int64))


def _from_arrow(definition: OperatorDefinition, output: Any, rows: int) -> dict[str, pa.ChunkedArray]:
    if not isinstance(output, pa.Table | pa.RecordBatch):
        _refuse(definition, f"a pyarrow.Table of {rows} rows", _kind(output))
    table = pa.Table.from_batches([output]) if isinstance(output, pa.RecordBatch) else output
    if table.num_rows != rows and table.num_columns:
        _refuse(definition, f"a table of {rows} rows", f"one of {table.num_rows} rows")
    if len(set(table.column_names)) != table.num_columns:
        _refuse(definition, "columns of different names", ", ".join(table.column_names))
    columns = zip(table.column_names, table.columns, strict=True)
    return {name: _carried(definition, name, column) for name, column in columns}


def _from_numpy(definition: OperatorDefinition, output: Any, rows: int) -> dict[str, pa.ChunkedArray]:
    if not isinstance(output, dict):
        _refuse(definition, "a dict of column name to numpy array", _kind(output))
    for name, values in output.items():
        if not isinstance(values, np.ndarray):
            _refuse(definition, f"a numpy array as column {name!r}", _kind(values))
        if values.ndim == 0 or len(values) != rows:
            _refuse(definition, f"{rows} values in column {name!r}", f"an array of shape {values.shape}")
    return {name: _column(definition, name, values) for name, values in output.items()}


def _column(definition: OperatorDefinition, name: Any, values: Any) -> pa.ChunkedArray:
    if not isinstance(name, str):
        _refuse(definition, "column names of type str", f"{name!r} ({type(name).__name__})")
    try:
        array = _from_array(values) if isinstance(values, np.ndarray) else _from_list(values)
    except _UNFIT as error:
        is_mixed = isinstance(error, MixedValuesError)
        got = str(error) if is_mixed else _mixture(values) or str(error).partition("\n")[0]
        _refuse(definition, f"values of one type in column {name!r}", got, error)
    return _carried(definition, name, array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array]))


def _carried(definition: OperatorDefinition, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return carry(pa.table({name: column})).column(0)
    except (UnsupportedColumnError, ColumnTooLargeError) as error:
        _refuse(definition, "columns of types that results can hold", str(error), error)


def _from_list(values: Sequence[Any]) -> pa.Array:
    try:
        return array_of(values)
    except _UNFIT:
        kind = _map_type(values)
        if kind is None:
            raise
        return pa.array(values, kind)


def _mixture(values: Iterable[Any]) -> str:
    """Name the types of values where they differ, also within lists and fields of dicts; "" where they do not."""
    present = [value for value in values if value is not None]
    kinds = sorted({_kind(value) for value in present})
    if len(kinds) > 1:
        return f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    if kinds == ["list"]:
        mixed = _mixture(item for value in present for item in value)
        return mixed and f"lists of {mixed}"
    if kinds == ["dict"]:
        for name in dict.fromkeys(name for value in present for name in value):
            mixed = _mixture(value.get(name) for value in present)
            if mixed:
                return f"{mixed} in the field {name!r}"
    return ""


def _map_type(values: Any) -> pa.DataType | None:
    """Return the type of a column of maps, which rows hold as lists of pairs; None for any other column."""
    pairs = [pair for value in values if isinstance(value, list) for pair in value]
    if not pairs or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        return None
    keys, items = zip(*pairs, strict=True)
    return pa.map_(array_of(keys).type, array_of(items).type)


def _from_array(values: np.ndarray[Any, Any]) -> pa.Array:
    # A copy: Arrow would share the memory, and an operator may reuse the array for its next batch.
    flat = values.flatten()
    array = _from_list(flat.tolist()) if flat.dtype == object else pa.array(flat)
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _to_numpy(column: pa.ChunkedArray) -> Any:
    if pa.types.is_dictionary(column.type):  # to_numpy has the first entry where a dictionary column is null
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_fixed_size_list(kind) and kind.list_size and not column.null_count:
        flat = column.combine_chunks().flatten()
        if pa.types.is_primitive(kind.value_type) and not flat.null_count:
            return flat.to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    if pa.types.is_time(kind):
        return np.array(values_of(column), dtype=object)  # numpy has no time of day, and to_numpy no nanoseconds of it
    if column.null_count and (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        return np.array(column.to_pylist(), dtype=object)  # to_numpy would round large integers to floats
    return column.to_numpy()


def _checked_errors(definition: OperatorDefinition, errors: Any, rows: int) -> Mapping[int, RowError]:
    expected = f"PartialResult.errors to map positions below {rows} to RowError"
    if not isinstance(errors, Mapping):
        _refuse(definition, expected, _kind(errors))
    for index, error in errors.items():
        if not (isinstance(index, int | np.integer) and 0 <= index < rows and isinstance(error, RowError)):
            _refuse(definition, expected, f"{index!r}: {error!r}")
    return {int(index): error for index, error in errors.items()}


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _refuse(definition: OperatorDefinition, expected: str, got: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidOperator(
        f"operator {definition.name!r} returned an output that does not fit: expected {expected}, got {got}.",
        hint=f"Its batch_format is {definition.batch_format!r}.",
        operator=definition.name,
    ) from cause
