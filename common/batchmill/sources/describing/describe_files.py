"""What validating files of every format shares: reading several at once, and the errors about their schemas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from batchmill.errors import InvalidSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batchmill.sources.schemas import SchemaConflictError
    from batchmill.storage.locations import Location

_LOCAL_READERS = 4
_REMOTE_READERS = 16  # they wait for the network
T = TypeVar("T")
R = TypeVar("R")


def nothing_readable(first: str) -> InvalidSource:
    """The error for a source whose rows are all bad."""
    return InvalidSource(
        f"no row of the source can be read, from {first} on.",
        hint='Set `on_bad_line` to "fail" to see what is wrong with the first.',
        file=first,
    )


def disagreement(conflict: SchemaConflictError, place: Location, first: Location) -> InvalidSource:
    """The error for a file whose schema does not fit those before it, of which `first` is one."""
    column = repr(conflict.column)
    hint = (
        "Types must widen to one without loss: read these files in jobs of their own, or name the columns that they "
        "share with `columns`."
    )
    if conflict.found is None:
        what = f"{place.uri} has no column {column}, which {first.uri} has"
        hint = 'Set `missing_columns` to "null" to read it as null there, or name the shared columns with `columns`.'
    elif pa.types.is_null(conflict.expected):
        what = f"{place.uri} has a column {column}, which {first.uri} has not"
        hint = 'Set `missing_columns` to "null" to read it as null there, or name the shared columns with `columns`.'
    else:
        what = f"column {column} is {conflict.found} in {place.uri}, and {conflict.expected} in {first.uri}"
    return InvalidSource(
        f"{what}.",
        hint=hint,
        file=place.uri,
        column=conflict.column,
    )


def each_of(describe_one: Callable[[T], R], items: Sequence[T], *, remote: bool | None = None) -> Iterable[R]:
    """Call `describe_one` for each, several at once; results and the first error are in the order of the items."""
    if remote is None:
        remote = bool(items) and not getattr(items[0], "is_local", True)
    with ThreadPoolExecutor(_REMOTE_READERS if remote else _LOCAL_READERS) as pool:
        yield from pool.map(describe_one, items)
