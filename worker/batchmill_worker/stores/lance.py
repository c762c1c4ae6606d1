"""Lance: a table in a folder. The embedded default.

1. An attempt writes fragments into the folder of the table; they are invisible, and its receipt names them.
2. `publish` commits the fragments of the receipts in one transaction that names the job. It looks for that name first,
   so a second publisher changes nothing; and it commits only onto the version that it has read, so that of two at the
   same time one starts again, and finds it.
3. `replace` is a new version of the table without the old fragments. `upsert` deletes the former rows of the same
   documents and adds the new ones, in the same transaction.

Rejected: `merge_insert` by the workers. Of several at once on the same new keys, both insert, without an error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.errors import InvalidParams, InvalidRows, MissingExtra, StaleToken, StorageUnavailable
from batchmill.jobs.sink import ID, INDEX_FROM_ROWS, ROOT, IndexSpec
from batchmill_worker.stores.base import COMPARISONS, DISTANCE, Published, Receipt, cannot_search, foreign, twins
from batchmill_worker.stores.filters import check_columns, terms_of
from batchmill_worker.stores.lance_upkeep import clean, extend_index, is_conflict, join_fragments

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from lance import LanceDataset
    from lance.fragment import FragmentMetadata

    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import RowError
    from batchmill_worker.stores.base import Build, Where

JOB_PROPERTY = "batchmill"
"""The property of a transaction that names the job which made it."""

SCHEMA_ERROR = "LanceError(Schema)"
"""What errors about names and types of columns begin with: an OSError as those of disks, but waiting does not help."""

LOOK_BACK = 1_000  # versions among which a job looks for its own
MAX_TRIES = 20  # to commit onto the newest version, while others commit as well
SCANNED_ROWS = 1024 * 1024  # at a time: the ids to look for are hashed anew for each
PROBES, REFINE = 20, 5
_METRICS = {"cosine": "cosine", "l2": "l2", "dot": "dot"}


class LanceStore:
    """A table in a local folder; see `Store`."""

    def __init__(self, path: str) -> None:
        self._path = path
        os.environ.setdefault("LANCE_LOG", "error")

    def schema(self) -> pa.Schema | None:
        """See `Store`."""
        found = self._open()
        return None if found is None else found.schema

    def refused(self, rows: pa.Table) -> dict[int, RowError]:  # noqa: ARG002  # Lance takes all values
        """See `Store`."""
        return {}

    def write(self, build: Build, part: str, rows: pa.Table) -> Receipt:
        """See `Store`."""
        fragment = _lance().fragment
        before = self._own()
        mode = "append" if build.sink.mode != "replace" and before is not None else "overwrite"
        written = self._guarded(
            lambda: fragment.write_fragments(rows, self._path, schema=build.schema, mode=mode), "write to"
        )
        return Receipt(part, rows.num_rows, {"fragments": [one.to_json() for one in written]})

    def publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        """See `Store`."""
        fragments = [
            _lance().fragment.FragmentMetadata.from_json(json.dumps(one))
            for receipt in receipts
            for one in receipt.about["fragments"]
        ]
        self._refuse_twins(build, fragments)
        for _ in range(MAX_TRIES):
            before = self._own()
            if before is not None and _was_published(before, build.job):
                return self._kept_up(before, build, 0, before.version)
            operation, deleted = self._operation(build, before, fragments)
            after = self._commit(operation, before, {JOB_PROPERTY: build.job})
            if after is not None:
                return self._kept_up(after, build, deleted, 0 if before is None else before.version)
        raise StorageUnavailable(f"{self._path} is changed by others all the time.", path=self._path)

    def search(
        self, sink: SinkSpec, vector: npt.NDArray[np.float32], k: int, where: Where, columns: Sequence[str] | None
    ) -> pa.Table:
        """See `Store`."""
        table = self._open()
        if table is None:
            raise InvalidParams(f"there is no table {self._path}.")
        names = [name for name in table.schema.names if name != sink.vector] if columns is None else list(columns)
        check_columns([*names, *where], table.schema.names)
        nearest = {"column": sink.vector, "q": vector, "k": k, "metric": _METRICS[sink.metric]}
        nearest |= {"nprobes": PROBES, "refine_factor": REFINE} if table.describe_indices() else {}
        try:
            found = self._guarded(
                lambda: table.to_table(
                    columns=[*names, DISTANCE], nearest=nearest, filter=_condition(where), prefilter=bool(where)
                ),
                "search",
            )
        except ValueError as error:  # a value of a filter is not of the column's type
            raise cannot_search(str(error).partition(", /")[0]) from error
        return found.sort_by(DISTANCE)

    def _operation(self, build: Build, before: LanceDataset | None, new: list[FragmentMetadata]) -> tuple[Any, int]:
        """Return what is to be committed onto a version, and how many rows it deletes."""
        operations = _lance().LanceOperation
        if before is None or build.sink.mode == "replace":
            return operations.Overwrite(build.schema, new), 0 if before is None else before.count_rows()
        gone = self._replaced(build, before, new)
        changed, removed = [], []
        for number in np.unique(gone >> np.uint64(32)).tolist():
            rows = gone[gone >> np.uint64(32) == number]
            fragment: Any = before.get_fragment(number)
            left = fragment.delete_rows((rows & np.uint64(0xFFFFFFFF)).tolist())
            if left is None:
                removed.append(number)
            else:
                changed.append(left)
        return operations.Update(removed, changed, new), int(gone.size)

    def _replaced(self, build: Build, before: LanceDataset, new: list[FragmentMetadata]) -> npt.NDArray[np.uint64]:
        """Return the addresses of the visible rows that these fragments replace. Memory holds a batch of the others."""
        if build.sink.mode == "mirror":
            scanner = before.scanner(columns=[], with_row_address=True)
            gone = [batch["_rowaddr"] for batch in scanner.to_batches()]
        else:
            column = ID if build.sink.mode == "amend" else ROOT
            replaced = self._staged(new, [column])[column].combine_chunks()
            scanner = before.scanner(columns=[column], with_row_address=True, batch_size=SCANNED_ROWS)
            gone = [
                batch["_rowaddr"].filter(pc.is_in(batch[column], value_set=replaced)) for batch in scanner.to_batches()
            ]
        return np.concatenate([np.empty(0, np.uint64), *(one.to_numpy(zero_copy_only=False) for one in gone)])

    def _staged(self, fragments: list[FragmentMetadata], columns: list[str]) -> pa.Table:
        """Read columns of fragments that are not committed."""
        paths = [Path(self._path) / "data" / file.path for one in fragments for file in one.files]
        reader = _lance().file.LanceFileReader
        return pa.concat_tables([reader(str(path), columns=columns).read_all().to_table() for path in paths])

    def _refuse_twins(self, build: Build, fragments: list[FragmentMetadata]) -> None:
        """Raise `InvalidRows` if two rows have one id, which only a column of the user's can give them."""
        if build.sink.id is None or not fragments:
            return
        ids = self._staged(fragments, [ID, ROOT])
        counts = pc.value_counts(ids[ID].combine_chunks())
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            root = ids.filter(pc.equal(ids[ID], twice[0]["values"]))[ROOT][0].as_py()
            raise twins(build, root)

    def _commit(self, operation: Any, before: LanceDataset | None, properties: dict[str, str]) -> LanceDataset | None:
        """Commit onto the version `before`; None if there is a newer one."""
        lance = _lance()
        transaction = lance.Transaction(
            0 if before is None else before.version, operation, transaction_properties=properties
        )
        try:
            committed: LanceDataset = lance.LanceDataset.commit(self._path, transaction, max_retries=0)
            return committed
        except lance.commit.CommitConflictError:
            return None
        except OSError as error:
            if is_conflict(error):
                return None
            raise self._unavailable("write to", error) from error

    def _kept_up(self, table: LanceDataset, build: Build, deleted: int, before: int) -> Published:
        """Build the index that the sink asks for, or keep it and the table fast. before: the version that was there."""
        sink, rows = build.sink, table.count_rows()
        has_index = bool(table.describe_indices())
        wanted = sink.index != "none" and (rows >= INDEX_FROM_ROWS or isinstance(sink.index, IndexSpec))
        self._guarded(lambda: join_fragments(table), "join files of")
        if has_index:
            self._guarded(lambda: extend_index(table), "index")
        elif wanted:
            spec = sink.index if isinstance(sink.index, IndexSpec) else IndexSpec()
            self._guarded(
                lambda: table.create_index(
                    sink.vector,
                    "IVF_HNSW_SQ",
                    metric=_METRICS[sink.metric],
                    num_partitions=max(1, rows // 1_000_000),
                    m=spec.m,
                    ef_construction=spec.ef_construction,
                ),
                "index",
            )
        self._guarded(lambda: clean(table, before), "delete former versions of")
        return Published(rows, deleted, "hnsw" if has_index or wanted else "none")

    def _own(self) -> LanceDataset | None:
        """Open the table that is to be written. Raises `InvalidOutput` if no sink has made it."""
        found = self._open()
        if found is not None and not {ID, ROOT} <= set(found.schema.names):
            raise foreign(self._path, "there is a Lance table that no sink has made")
        return found

    def _open(self) -> LanceDataset | None:
        try:
            opened: LanceDataset = _lance().dataset(self._path)
            return opened
        except ValueError as error:
            if "was not found" in str(error):
                return None
            raise
        except OSError as error:
            raise self._unavailable("read", error) from error

    def _guarded(self, call: Any, action: str) -> Any:
        try:
            return call()
        except OSError as error:
            if SCHEMA_ERROR in str(error):
                raise InvalidRows(f"could not {action} {self._path}: {error}", path=self._path) from error
            raise self._unavailable(action, error) from error

    def _unavailable(self, action: str, error: Exception) -> StorageUnavailable:
        return StorageUnavailable(f"could not {action} {self._path}: {error}", path=self._path)


def _was_published(table: LanceDataset, job: str) -> bool:
    """Return whether a job's rows are committed. Raises `StaleToken` if those of a newer job are, and its own not.

    Jobs publish in the order of their ids, so behind an older one there is nothing to look for.
    """
    newest = ""
    for version in range(table.version, max(table.version - LOOK_BACK, 0), -1):
        try:
            transaction = table.read_transaction(version)
        except TypeError:  # pylance cannot show that an index was written again for joined files: it is no job's
            continue
        except OSError as error:
            if "was not found" in str(error):  # deleted after its time, as all before it
                break
            raise StorageUnavailable(f"could not read {table.uri}: {error}", path=table.uri) from error
        found = None if transaction is None else (transaction.transaction_properties or {}).get(JOB_PROPERTY)
        if found == job:
            return True
        if found is not None and found < job:
            break
        newest = newest or found or ""
    if newest:
        raise StaleToken(f"job {newest} has published rows into the same table since.")
    return False


def _condition(where: Where) -> str | None:
    """Return a filter in Lance's SQL: names of columns that are there, and values as literals."""
    terms = []
    for term in terms_of(where):
        name = f"`{term.column}`"
        if term.value is None:
            terms.append(f"{name} IS {'NOT ' if term.comparison == 'ne' else ''}NULL")
        elif term.comparison == "in":
            terms.append(f"{name} IN ({', '.join(map(_literal, term.value))})")
        else:
            terms.append(f"{name} {COMPARISONS[term.comparison]} {_literal(term.value)}")
    return " AND ".join(terms) or None


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


def _lance() -> Any:
    try:
        import lance
        import lance.commit
        import lance.file
        import lance.fragment
    except ImportError as error:
        raise MissingExtra("Lance is not installed on this worker.", hint="pip install 'batchmill[lance]'") from error
    return lance
