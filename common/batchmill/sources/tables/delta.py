"""Tables of Delta Lake: the log says which files are current at a version. The package `deltalake` reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from batchmill.sources.tables.table_snapshot import TableFile, TableSnapshot, missing_package, not_read, reading_table

if TYPE_CHECKING:
    from batchmill.storage.locations import Location, Locations

LOG_FOLDER = "_delta_log"
_KIND = "Delta"
_PARTITION = "partition."
_FEATURES = frozenset(
    {
        *("columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview"),
        *("v2Checkpoint", "vacuumProtocolCheck"),
    }
)
"""Of tables that are read, unless they use column mapping or deletion vectors indeed."""


def read_delta(table: Location, version: int | None, locations: Locations) -> TableSnapshot:
    """Read which files are current at a version; None: the newest. Raises `InvalidSource`."""
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise missing_package(f"a {_KIND}", table.uri, "delta") from None
    _check_log(table, locations)
    with reading_table(_KIND, table.uri):
        found = DeltaTable(table.uri, version=version, storage_options=_storage_options(table))
        _refuse_features(found, table.uri)
        schema = pa.schema(found.schema().to_arrow())
        actions = pa.table(found.get_add_actions(flatten=True))
        files = _files(actions, table, locations)
        return TableSnapshot(_KIND, table.uri, found.version(), schema, files)


def _files(actions: pa.Table, table: Location, locations: Locations) -> tuple[TableFile, ...]:
    partitions = {
        name.removeprefix(_PARTITION): actions[name] for name in actions.column_names if name.startswith(_PARTITION)
    }
    return tuple(
        TableFile(_locate(path, table, locations), {name: column[row] for name, column in partitions.items()})
        for row, path in enumerate(actions["path"].to_pylist())
    )


def _locate(path: str, table: Location, locations: Locations) -> Location:
    """Return where a file of the log is: its path is a URI, or relative to the table, with percent escapes."""
    if path.startswith("file://"):
        return locations.resolve(path)
    plain = unquote(path)
    is_absolute = "://" in path or path.startswith("/")
    return locations.resolve(plain if is_absolute else f"{table.uri.rstrip('/')}/{plain}")


def _refuse_features(found: Any, uri: str) -> None:
    features = set(found.protocol().reader_features or ())
    unknown = sorted(features - _FEATURES)
    if unknown:
        raise not_read(_KIND, uri, f"uses features that are not read: {', '.join(unknown)}", "Give its rows in files.")
    mode = found.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise not_read(
            _KIND,
            uri,
            f"has the column mapping {mode!r}, with which the names in its files are not those of its columns",
            "Write its rows to a table without column mapping.",
        )
    if "deletionVectors" in features and next(iter(pa.table(found.deletion_vectors()).to_batches()), None) is not None:
        raise not_read(
            _KIND,
            uri,
            "has deletion vectors: deleted rows that are still in its files",
            "Rewrite these files: REORG TABLE … APPLY (PURGE) in Spark, `optimize.compact()` in deltalake.",
        )


def _check_log(table: Location, locations: Locations) -> None:
    """Raise `InvalidSource` if a link in the log of a local table leads out of the roots."""
    if table.is_local:
        log = table.child(LOG_FOLDER)
        for name in os.listdir(log.path):  # noqa: PTH208  # names are all that is needed
            locations.check(log.child(name))


def _storage_options(table: Location) -> dict[str, str] | None:
    if table.objects is None:
        return None
    options = table.objects.options
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
