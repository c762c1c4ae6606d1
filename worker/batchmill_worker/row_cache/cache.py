"""The row cache of a worker process, around the executor.

1. The rows of the shard are digested; equal rows are treated as one from here on.
2. The index in the ledger says in which segments the results of known rows are stored; they are read from there.
3. The executor runs the missing rows.
4. Their results are written as one segment, which is then added to the index.
5. Results from both sides are joined in input order, as if the executor had run all rows.

The cache is never necessary: if anything fails, it is logged, and the rows are computed.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

import numpy as np

from batchmill.columns import rows_of
from batchmill.errors import DamagedData, InvalidOperator, NotFound, OperatorFailed
from batchmill.ledger.formats.encodings import SEGMENT_BYTES
from batchmill.ledger.scripting.calls import KeepRowsAnswer
from batchmill.row_cache import segment_blob
from batchmill_worker.row_cache.digests import content_digests, key_digests
from batchmill_worker.row_cache.plan import Distinct, Piece, Shared, computed
from batchmill_worker.row_cache.segments import (
    BrokenSegment,
    by_segment,
    decode_segment,
    encode_segment,
    pick,
)
from batchmill_worker.row_cache.space import space_of
from batchmill_worker.runtime.slot_board import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from batchmill.jobs.job import StageSpec
    from batchmill.ledger.workers.row_cache import Limits, Lookup, RowCacheLedger
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.models.ready_operator import ReadyOperator

log = logging.getLogger(__name__)

MAX_ROWS_PER_CALL = 5_000
"""Rows per call of the index, and per segment: a large shard must not block the ledger."""


Compute: TypeAlias = "Callable[[pa.Table], ShardResult]"
"""Runs rows through the operator and returns their result."""


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of distinct rows, and the segment for those of them that are missing."""

    start: int
    end: int
    segment: bytes  # empty: none


class RowCache:
    """The row cache, for the shards of one process. Thread-safe."""

    def __init__(self, index: RowCacheLedger, blobs: BlobStore, limits: Limits) -> None:
        self._index = index
        self._blobs = blobs
        self._limits = limits

    def run(self, operator: ReadyOperator, spec: StageSpec, table: pa.Table, compute: Compute) -> ShardResult:
        """Run a shard: take results from the cache and from equal rows, and compute the others. Raises as `compute`."""
        if not operator.definition.cacheable:  # it was when the job was submitted
            return compute(table)
        try:
            digests = self._digests(operator, spec, table)
        except Exception as error:  # noqa: BLE001  # whatever it is, the rows can be computed
            _warn("its rows could not be digested", operator, error)
            return compute(table)
        distinct = Distinct.of(digests)
        found, ranges = self._find(distinct, operator)
        ran, missing, found = _run_missing(table, distinct, found, compute)
        self._store(computed(ran, missing), distinct, ranges, operator)
        if len(missing) == table.num_rows:
            return ran
        carried = table.column_names if spec.carry is None else spec.carry
        try:
            return Shared(operator.definition, table, carried, distinct, found, missing).result(ran)
        except InvalidOperator as error:  # their types differ from what was computed now
            _warn("its results do not fit those computed now", operator, error)
            return compute(table)

    def _digests(self, operator: ReadyOperator, spec: StageSpec, table: pa.Table) -> list[bytes]:
        definition = operator.definition
        space = space_of(definition, spec.params, operator.fingerprint())
        if operator.row_key is None:
            return content_digests(table, space)
        # some at a time: as dicts, rows take many times the memory
        slices = (table.slice(start, MAX_ROWS_PER_CALL) for start in range(0, table.num_rows, MAX_ROWS_PER_CALL))
        with operator.guard.calling(Hook.ROW_KEY):
            return [digest for some in slices for digest in key_digests(rows_of(some), operator.row_key, space)]

    def _find(self, distinct: Distinct, operator: ReadyOperator) -> tuple[list[Piece], list[_Range]]:
        """Find the results that the cache has, and the segments for those that it lacks."""
        pieces: list[Piece] = []
        ranges: list[_Range] = []
        if not self._limits.max_bytes or not self._limits.max_rows:
            return pieces, ranges
        try:
            for start in range(0, len(distinct.digests), MAX_ROWS_PER_CALL):
                digests = distinct.digests[start : start + MAX_ROWS_PER_CALL]
                places, segment = self._ask(digests)
                readable, broken = self._read(places, start, distinct.digests, expands=operator.definition.expands)
                if broken:
                    self._index.forget(broken)
                    segment = segment or self._ask(digests).segment  # because their rows are missing now
                ranges.append(_Range(start, start + len(digests), segment))
                pieces += readable
        except Exception as error:  # noqa: BLE001  # whatever it is, the rows can be computed
            _warn("it could not be read", operator, error)
        return pieces, ranges

    def _ask(self, digests: Sequence[bytes]) -> Lookup:
        return self._index.find(digests, secrets.token_bytes(SEGMENT_BYTES))

    def _read(
        self, places: Sequence[bytes | None], start: int, digests: Sequence[bytes], *, expands: bool
    ) -> tuple[list[Piece], list[bytes]]:
        """Read the results at these places, and list the segments that are broken or missing."""
        pieces = []
        broken = []
        for name, (rows, starts, counts) in by_segment(places, expands=expands).items():
            owners = np.array(rows, dtype=np.int64) + start
            wanted = [digests[owner] for owner in owners.tolist()]
            try:
                segment = decode_segment(self._blobs.get(segment_blob(name)))
                pieces.append(pick(segment, owners, np.array(starts), np.array(counts), wanted))
            except (DamagedData, NotFound, BrokenSegment) as error:
                log.warning("segment %s of the row cache cannot be used: %s", name.hex(), error)
                broken.append(name)
        return pieces, broken

    def _store(self, piece: Piece, distinct: Distinct, ranges: Sequence[_Range], operator: ReadyOperator) -> None:
        try:
            for one in ranges:
                if one.segment:
                    self._store_part(piece.part(one.start, one.end), distinct, one.segment)
        except Exception as error:  # noqa: BLE001  # the results are valid all the same
            _warn("new rows could not be stored", operator, error)

    def _store_part(self, piece: Piece, distinct: Distinct, segment: bytes) -> None:
        if not len(piece.owners) or piece.results.nbytes > self._limits.max_bytes:
            self._index.remove_loose([segment])
            return
        digests = [distinct.digests[owner] for owner in piece.owners.tolist()]
        table, places = encode_segment(piece, digests)
        nbytes = self._blobs.put_table(segment_blob(segment), table)
        match self._index.keep(segment, nbytes, digests, places, self._limits):
            case KeepRowsAnswer.KEPT | KeepRowsAnswer.KNOWN | KeepRowsAnswer.NO_ROOM:
                pass  # in use, or the janitor's to delete
            case KeepRowsAnswer.GONE:
                self._blobs.delete(segment_blob(segment))
            case never:
                assert_never(never)


def _run_missing(
    table: pa.Table, distinct: Distinct, found: list[Piece], compute: Compute
) -> tuple[ShardResult, Rows, list[Piece]]:
    """Run the rows that were not found; return their result, which rows they are, and what was found of the others.

    If all of them fail, it is unknown whether the rows or the operator are at fault: then the first row that was found
    is run with them, as it would have been without the cache.
    """
    missing = np.setdiff1d(np.arange(len(distinct.digests)), _joined([piece.owners for piece in found]))
    try:
        return compute(_rows(table, distinct, missing)), missing, found
    except OperatorFailed:
        if not found:
            raise
    first, *others = sorted(found, key=lambda piece: int(piece.owners[0]))
    witness = int(first.owners[0])
    missing = np.union1d(missing, [witness])
    rest = first.part(witness + 1, len(distinct.digests))
    return compute(_rows(table, distinct, missing)), missing, [rest, *others]


def _rows(table: pa.Table, distinct: Distinct, chosen: Rows) -> pa.Table:
    return table if len(chosen) == table.num_rows else table.take(distinct.firsts[chosen])


def _joined(owners: Sequence[Rows]) -> Rows:
    return np.concatenate(owners) if owners else np.empty(0, dtype=np.int64)


def _warn(what: str, operator: ReadyOperator, error: Exception) -> None:
    log.warning("row cache of operator %r: %s: %s", operator.definition.name, what, error)
