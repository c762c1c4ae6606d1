"""Arrow tables as JSON Lines and back, a column at a time.

1. A column becomes a column of JSON texts: numbers are cast to text, strings quoted, lists and structs joined from
   the texts of what they hold. A row of texts, joined, is a line.
2. To read them, Arrow's JSON reader is given for each type the plain one that its texts spell (numbers, text, lists,
   structs), and the plain columns are turned into the original ones.

What has no form of its own in JSON is written thus: binary as base64; timestamps, dates and times as ISO 8601, those
with a time zone in UTC; decimals as text; durations as a number in their unit; a map as a list of {key, value}.
A float that is not finite becomes null; that loss apart, a table comes back as it was.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BATCH_BYTES = 16 << 20
_MAX_BLOCK_BYTES = 2**31 - 1
_SPECIAL = r'[\x00-\x1f"\\]'
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"
_types = pa.types


def encode(table: pa.Table) -> Iterator[pa.Buffer]:
    """Yield the lines of a table, some at a time. Raises `pa.ArrowException` for a type or a value JSON cannot hold."""
    check(table.schema)
    row_bytes = table.nbytes // max(table.num_rows, 1)
    for batch in table.to_batches(max_chunksize=max(1, _BATCH_BYTES // max(row_bytes, 256))):
        if batch.num_rows:
            yield _text_bytes(_objects(batch.schema, batch.columns, batch.num_rows, "\n"))


def decode(data: pa.Buffer, schema: pa.Schema) -> pa.Table:
    """Parse lines that `encode` wrote. Raises `pa.ArrowException` for lines that do not fit the schema."""
    if not data.size or not len(schema):
        return schema.empty_table()
    plain = pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])
    table = pj.read_json(
        pa.BufferReader(data),
        read_options=pj.ReadOptions(use_threads=False, block_size=min(data.size + 1, _MAX_BLOCK_BYTES)),
        parse_options=pj.ParseOptions(explicit_schema=plain, unexpected_field_behavior="error"),
    )
    columns = [_restore(table[field.name].combine_chunks(), field.type) for field in schema]
    return pa.table(columns, schema=schema)


def check(schema: pa.Schema) -> None:
    """Raise `pa.ArrowException` for a schema that JSON Lines cannot hold."""
    for field in schema:
        _plain(field.type)
    twins = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twins:
        raise pa.ArrowInvalid(f"two columns are called {twins[0]!r}")


def _kind(type_: pa.DataType) -> _Kind:
    for kind in _KINDS:
        if kind.fits(type_):
            return kind
    raise pa.ArrowNotImplementedError(f"the type {type_} has no form in JSON")


def _plain(type_: pa.DataType) -> pa.DataType:
    """Return the type that Arrow's JSON reader gives the texts of another one."""
    return _kind(type_).plain(type_)


def _texts(array: pa.Array) -> pa.Array:
    """Return the JSON text of each value; never null."""
    return pc.fill_null(_kind(array.type).write(array), "null")


def _objects(fields: Any, columns: list[pa.Array], rows: int, end: str = "") -> pa.Array:
    """Return the text of one object for each row."""
    pieces: list[Any] = []
    for field, column in zip(fields, columns, strict=True):
        start = "," if pieces else "{"
        pieces += [f"{start}{json.dumps(field.name, ensure_ascii=False)}:", _texts(column)]
    if not pieces:
        return pa.repeat("{}" + end, rows)
    return pc.binary_join_element_wise(*pieces, "}" + end, "")


def _text_bytes(texts: pa.Array) -> pa.Buffer:
    """Return the bytes of all texts in a row, which is how a string array holds them."""
    _, offsets, data = texts.buffers()
    bounds = memoryview(offsets).cast("i")
    start = bounds[texts.offset]
    return data.slice(start, bounds[texts.offset + len(texts)] - start)


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _write_number(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _write_float(array: pa.Array) -> pa.Array:
    """Write floats, each with a point or an exponent, so that readers see that it is no integer."""
    wide = array.cast(pa.float32()) if _types.is_float16(array.type) else array
    texts = wide.cast(pa.string())
    integral = pc.equal(pc.trunc(wide), wide)
    if pc.any(integral).as_py():
        bare = pc.and_(integral, pc.match_substring_regex(texts, "^-?[0-9]+$"))
        texts = pc.if_else(bare, pc.binary_join_element_wise(texts, ".0", ""), texts)
    return pc.if_else(pc.is_finite(wide), texts, None)


def _write_text(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    if not pc.any(pc.match_substring_regex(texts, _SPECIAL)).as_py():
        return _quoted(texts)
    for char, escape in (("\\", r"\\"), ('"', r"\""), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t")):
        texts = pc.replace_substring(texts, char, escape)
    if pc.any(pc.match_substring_regex(texts, _CONTROL)).as_py():
        for code in range(0x20):
            texts = pc.replace_substring(texts, chr(code), f"\\u{code:04x}")
    return _quoted(texts)


def _write_binary(array: pa.Array) -> pa.Array:
    encoded = [None if value is None else base64.b64encode(value) for value in array.to_pylist()]
    return _quoted(pa.array(encoded, pa.binary()).cast(pa.string()))


def _write_moment(array: pa.Array) -> pa.Array:
    if _types.is_timestamp(array.type) and array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    texts = array.cast(pa.string())
    if pc.any(pc.invert(pc.match_substring_regex(texts, "^[0-9]{4}-"))).as_py():
        raise pa.ArrowInvalid("a date outside the years 0 to 9999 has no form in JSON")
    return _quoted(pc.replace_substring(texts, " ", "T"))


def _write_quoted(array: pa.Array) -> pa.Array:
    return _quoted(array.cast(pa.string()))


def _write_dictionary(array: pa.Array) -> pa.Array:
    return _texts(array.dictionary).take(array.indices)


def _write_list(array: pa.Array) -> pa.Array:
    lists = pa.LargeListArray.from_arrays(_offsets(array), _texts(pc.list_flatten(array)))
    texts = pc.binary_join_element_wise("[", pc.binary_join(lists, ","), "]", "")
    return pc.if_else(array.is_valid(), texts, None)


def _write_map(array: pa.Array) -> pa.Array:
    pair = pa.struct({"key": array.type.key_type, "value": array.type.item_type})
    return _write_list(array.cast(pa.list_(pair)))


def _write_extension(array: pa.Array) -> pa.Array:
    return _texts(array.storage)


def _write_duration(array: pa.Array) -> pa.Array:
    return _write_number(array.cast(pa.int64()))


def _write_struct(array: pa.Array) -> pa.Array:
    return pc.if_else(array.is_valid(), _objects(array.type, array.flatten(), len(array)), None)


def _restore(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Convert an array of a plain type to the type that it represents."""
    if array.type == type_:
        return array
    return _kind(type_).read(array, type_)


def _read_cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    return array.cast(type_)


def _read_null(array: pa.Array, type_: pa.DataType) -> pa.Array:
    return pa.nulls(len(array), type_)


def _read_time(array: pa.Array, type_: pa.DataType) -> pa.Array:
    moments = pc.binary_join_element_wise("1970-01-01T", array, "")
    return moments.cast(pa.timestamp(type_.unit)).cast(type_)


def _read_binary(array: pa.Array, type_: pa.DataType) -> pa.Array:
    return pa.array([None if text is None else base64.b64decode(text) for text in array.to_pylist()], type_)


def _read_dictionary(array: pa.Array, type_: pa.DataType) -> pa.Array:
    found = _restore(array, type_.value_type).dictionary_encode()
    return pa.DictionaryArray.from_arrays(found.indices.cast(type_.index_type), found.dictionary, ordered=type_.ordered)


def _read_list(array: pa.Array, type_: pa.DataType) -> pa.Array:
    values = _restore(pc.list_flatten(array), type_.value_type)
    if _types.is_large_list(type_):
        return pa.LargeListArray.from_arrays(_offsets(array), values, type=type_, mask=array.is_null())
    return pa.ListArray.from_arrays(_offsets(array).cast(pa.int32()), values, type=type_, mask=array.is_null())


def _read_fixed_size_list(array: pa.Array, type_: pa.DataType) -> pa.Array:
    values = pc.list_flatten(array)
    if array.null_count:
        values = values.take(_padding(array.is_valid(), type_.list_size))
    values = _restore(values, type_.value_type)
    return pa.FixedSizeListArray.from_arrays(values, type=type_, mask=array.is_null())


def _padding(present: pa.Array, size: int) -> pa.Array:
    """Return the offsets of the values of lists of one size when absent lists have none; null for theirs."""
    slots = pa.FixedSizeListArray.from_arrays(pa.repeat(False, len(present) * size), size)
    filled = present.take(pc.list_parent_indices(slots))
    return pc.if_else(filled, pc.subtract(pc.cumulative_sum(filled.cast(pa.int64())), 1), None)


def _read_map(array: pa.Array, type_: pa.DataType) -> pa.Array:
    keys, items = pc.list_flatten(array).flatten()
    offsets = _offsets(array).cast(pa.int32())
    read = (_restore(keys, type_.key_type), _restore(items, type_.item_type))
    return pa.MapArray.from_arrays(offsets, *read, type=type_, mask=array.is_null())


def _read_struct(array: pa.Array, type_: pa.DataType) -> pa.Array:
    columns = [_restore(column, field.type) for column, field in zip(array.flatten(), type_, strict=True)]
    return pa.StructArray.from_arrays(columns, fields=list(type_), mask=array.is_null())


def _read_extension(array: pa.Array, type_: pa.DataType) -> pa.Array:
    return pa.ExtensionArray.from_storage(type_, _restore(array, type_.storage_type))


def _offsets(lists: pa.Array) -> pa.Array:
    """Where each list begins in the flattened values, and where the last one ends."""
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64()))
    return pa.concat_arrays([pa.array([0], pa.int64()), ends])


def _is_list(type_: pa.DataType) -> bool:
    return bool(_types.is_list(type_) or _types.is_large_list(type_))


def _is_text(type_: pa.DataType) -> bool:
    return bool(_types.is_string(type_) or _types.is_large_string(type_))


def _is_binary(type_: pa.DataType) -> bool:
    checks = (_types.is_binary, _types.is_large_binary, _types.is_binary_view, _types.is_fixed_size_binary)
    return any(fits(type_) for fits in checks)


def _is_date(type_: pa.DataType) -> bool:
    return bool(_types.is_timestamp(type_) or _types.is_date(type_))


def _is_extension(type_: pa.DataType) -> bool:
    return isinstance(type_, pa.BaseExtensionType)


def _same(type_: pa.DataType) -> pa.DataType:
    return type_


def _always(type_: pa.DataType) -> Callable[[pa.DataType], pa.DataType]:
    return lambda _: type_


def _plain_dictionary(type_: pa.DataType) -> pa.DataType:
    if _types.is_nested(type_.value_type):
        raise pa.ArrowNotImplementedError(f"the type {type_} has no form in JSON")
    return _plain(type_.value_type)


def _plain_list(type_: pa.DataType) -> pa.DataType:
    return pa.list_(_plain(type_.value_type))


def _plain_map(type_: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct({"key": _plain(type_.key_type), "value": _plain(type_.item_type)}))


def _plain_extension(type_: pa.DataType) -> pa.DataType:
    return _plain(type_.storage_type)


def _plain_struct(type_: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(field.name, _plain(field.type)) for field in type_])


class _Kind(NamedTuple):
    """How the types that `fits` accepts are written and read."""

    fits: Callable[[pa.DataType], bool]
    plain: Callable[[pa.DataType], pa.DataType]
    write: Callable[[pa.Array], pa.Array]
    read: Callable[[pa.Array, pa.DataType], pa.Array]


_KINDS = (
    _Kind(_types.is_null, _always(pa.bool_()), _write_number, _read_null),
    _Kind(_types.is_boolean, _same, _write_number, _read_cast),
    _Kind(_types.is_integer, _same, _write_number, _read_cast),
    _Kind(_types.is_float16, _always(pa.float32()), _write_float, _read_cast),
    _Kind(_types.is_floating, _same, _write_float, _read_cast),
    _Kind(_types.is_duration, _always(pa.int64()), _write_duration, _read_cast),
    _Kind(_types.is_string_view, _always(pa.string()), _write_text, _read_cast),
    _Kind(_is_text, _same, _write_text, _read_cast),
    _Kind(_is_binary, _always(pa.string()), _write_binary, _read_binary),
    _Kind(_is_date, _always(pa.string()), _write_moment, _read_cast),
    _Kind(_types.is_time, _always(pa.string()), _write_quoted, _read_time),
    _Kind(_types.is_decimal, _always(pa.string()), _write_quoted, _read_cast),
    _Kind(_types.is_dictionary, _plain_dictionary, _write_dictionary, _read_dictionary),
    _Kind(_is_list, _plain_list, _write_list, _read_list),
    _Kind(_types.is_fixed_size_list, _plain_list, _write_list, _read_fixed_size_list),
    _Kind(_types.is_map, _plain_map, _write_map, _read_map),
    _Kind(_types.is_struct, _plain_struct, _write_struct, _read_struct),
    _Kind(_is_extension, _plain_extension, _write_extension, _read_extension),
)
