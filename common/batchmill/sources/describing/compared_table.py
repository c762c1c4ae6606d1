"""The tables that operators compare rows with: of Lance, Delta Lake or Iceberg, or Parquet and Arrow files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from batchmill.errors import InvalidParams, InvalidSource, MissingExtra
from batchmill.jobs.files import FileSource
from batchmill.jobs.sink import LANCE_ENDING
from batchmill.sources.describing.describe import describe
from batchmill.storage.anchors import real_path

if TYPE_CHECKING:
    from batchmill.sources.description import SourceDescription
    from batchmill.storage.locations import Locations

FORMATS = ("parquet", "arrow")


class TableFacts(NamedTuple):
    """What is known of a table. version: the one that was found; None: it has none, or that is unknown.

    columns: None: unknown.
    """

    version: int | None = None
    columns: list[str] | None = None


def facts_of(base: str, version: int | None, locations: Locations) -> TableFacts:
    """Look a table up. version: None: the newest. Raises as `open_lance` and `describe_files`.

    A process without the library for Lance knows nothing about its tables.
    """
    if not is_lance(base):
        described = describe_files(base, version, locations)
        return TableFacts(described.table_version, described.arrow_schema.names)
    try:
        table = open_lance(base, version, locations)
    except MissingExtra:
        return TableFacts()
    return TableFacts(table.version, table.schema.names)


def is_lance(base: str) -> bool:
    """Return whether a path is that of a table of Lance."""
    return base.rstrip("/").endswith(LANCE_ENDING)


def open_lance(base: str, version: int | None, locations: Locations) -> Any:
    """Open a dataset of Lance. Raises `InvalidParams` if it is not there, or outside the roots, and `MissingExtra`."""
    location = locations.resolve(base, error=InvalidParams)
    if not location.is_local:
        raise InvalidParams(f"the base {base} is in an object store; a Lance table must be in a folder.", path=base)
    try:
        import lance
    except ImportError as error:
        raise MissingExtra("Lance is not installed on this worker.", hint="pip install 'batchmill[lance]'") from error
    try:
        return lance.dataset(real_path(location.path), version=version)
    except (ValueError, OSError) as error:
        what = f"version {version} of " if version is not None else ""
        raise InvalidParams(f"there is no {what}Lance table {base} that can be read.", path=base) from error


def describe_files(base: str, version: int | None, locations: Locations) -> SourceDescription:
    """Describe files, or a table of Delta Lake or Iceberg. Raises `InvalidParams` for what is none."""
    try:
        described = describe(FileSource(path=base, table_version=version), locations)
    except InvalidSource as error:
        raise InvalidParams(f"the base cannot be read: {error.message}", hint=error.hint, **error.details) from error
    if described.format not in FORMATS:
        raise InvalidParams(
            f"the base {base} is {described.format}; expected Parquet or Arrow files, or a table.", path=base
        )
    return described
