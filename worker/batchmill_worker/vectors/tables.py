"""The tables that rows are compared with: of Lance, Delta Lake or Iceberg, Parquet and Arrow files, results of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from batchmill.errors import InvalidParams, nearest_of
from batchmill.jobs.files import FileSource
from batchmill.operators.named_params import results_named
from batchmill.sources import describe, open_source
from batchmill.sources.describing.compared_table import describe_files, is_lance, open_lance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.operators.named_params import NamedResults
    from batchmill_worker.models.setup_context import SetupContext

BLOCK_BYTES = 64 * 1024 * 1024


class Table(Protocol):
    """One version of a table."""

    schema: pa.Schema

    def is_current(self) -> bool:
        """Return whether the table has not changed since it was opened."""
        ...

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield all rows in order, up to about `BLOCK_BYTES` at a time. Raises if the table has changed."""
        ...


def open_table(base: str, version: int | None, context: SetupContext) -> Table:
    """Open a table by its path, or the results of a job.

    version: None: the newest one. Raises `InvalidParams` for what is no table, and paths outside the roots.
    """
    named = results_named(base)
    if named is not None:
        return _Results(named, base, context)
    return _LanceTable(base, version, context) if is_lance(base) else _Files(base, version, context)


def require_column(name: str, table: Table, base: str) -> None:
    """Raise `InvalidParams` for a column that a table does not have."""
    names = table.schema.names
    if name not in names:
        raise InvalidParams(
            f"the base {base} has no column {name!r}; its columns are: {', '.join(names)}.",
            hint=nearest_of(name, names),
            column=name,
        )


class _LanceTable:
    def __init__(self, base: str, version: int | None, context: SetupContext) -> None:
        self._is_fixed = version is not None
        self._table = open_lance(base, version, context.locations)
        self.schema = self._table.schema

    def is_current(self) -> bool:
        """See `Table`."""
        return self._is_fixed or self._table.latest_version == self._table.version

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Table`."""
        schema = pa.schema([self._table.schema.field(name) for name in columns])
        rows = max(BLOCK_BYTES // _bytes_of_row(schema), 1)
        for batch in self._table.to_batches(columns=list(columns), batch_size=rows, scan_in_order=True):
            yield pa.Table.from_batches([batch])


class _Files:
    """Files, or a table of Delta Lake or Iceberg."""

    def __init__(self, base: str, version: int | None, context: SetupContext) -> None:
        if context.blobs is None:
            raise RuntimeError("tables are read in a worker only")
        self._spec = FileSource(path=base, table_version=version)
        self._locations, self._blobs = context.locations, context.blobs
        self._described = describe_files(base, version, self._locations)
        self.schema = self._described.arrow_schema

    def is_current(self) -> bool:
        """See `Table`."""
        return describe(self._spec, self._locations).fingerprint == self._described.fingerprint

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Table`."""
        described = describe(self._spec.model_copy(update={"columns": list(columns)}), self._locations)
        source = open_source(described, self._locations, self._blobs, "")
        rows = max(BLOCK_BYTES // _bytes_of_row(source.schema), 1)
        with source.splitter() as splitter:
            for split in splitter.available(rows, BLOCK_BYTES):
                yield source.read(split.slices)


class _Results:
    """The results of a job that has ended."""

    def __init__(self, named: NamedResults, base: str, context: SetupContext) -> None:
        if context.job_results is None:
            raise RuntimeError("results of jobs are read in a worker only")
        self._results = context.job_results.open(named)
        self.schema = self._results.schema()
        if not self.schema.names:
            raise InvalidParams(f"the base {base} has no results.", job=named.job)

    def is_current(self) -> bool:
        """See `Table`."""
        return self._results.is_current()

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Table`."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        yield from self._results.blocks(schema, max(BLOCK_BYTES // _bytes_of_row(schema), 1))


def _bytes_of_row(schema: pa.Schema) -> int:
    """Return about what a row takes: of vectors of a fixed length that, of others a guess."""
    return sum(4 * field.type.list_size if pa.types.is_fixed_size_list(field.type) else 64 for field in schema)
