"""What an attempt writes outside the ledger: results, dead letters and checkpoints, all under its own names.

Names carry the attempt's token, so that two attempts of one shard never write the same blob: the ledger alone decides
whose results count, and the other's are deleted.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW, lineage_of, lineage_of_results, path_at, without_lineage
from batchmill.errors import BatchmillError, InvalidOperator, StaleToken
from batchmill.jobs.completion import Completion, ShardRest
from batchmill.jobs.dead_letters import INCOMPLETE, DeadRows, count_by_type, dead_letters_name
from batchmill.jobs.job import MAX_INLINE_BYTES
from batchmill.jobs.shard import ShardState, checkpoint_name, part_of
from batchmill.jobs.stateful.step import state_name
from batchmill.operators.contract import OperatorKind
from batchmill.stage_inputs.gathered_results import borders_of
from batchmill.storage.indexed import INDEX
from batchmill.workspace import stream_from_table
from batchmill_worker.runtime.trace import Phase
from batchmill_worker.slot.attempt.shard_progress import encode_progress
from batchmill_worker.slot.attempt.token_columns import tokens_of

if TYPE_CHECKING:
    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.jobs.shard import Shard, ShardRef
    from batchmill.ledger.shards import ShardLedger
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.runtime.trace import Recorder
    from batchmill_worker.slot.attempt.partial_results import PartAndRest
    from batchmill_worker.slot.attempt.shard_loader import LoadedShard
    from batchmill_worker.slot.attempt.shard_progress import ShardProgress
    from batchmill_worker.slot.job_cache import JobFiles

log = logging.getLogger(__name__)


class AttemptStore:
    """Stores what attempts have made. Thread-safe."""

    def __init__(self, shards: ShardLedger, blobs: BlobStore, trace: Recorder) -> None:
        self._shards = shards
        self._blobs = blobs
        self._trace = trace

    def checkpoint(self, loaded: LoadedShard, progress: ShardProgress) -> str:
        """Store what is done so far, for the next attempt, and return the blob's name. Raises `StorageError`."""
        name = checkpoint_name(loaded.shard.ref)
        self._blobs.put_table(name, encode_progress(progress, count_from_shard=loaded.is_handed))
        return name

    def rest(self, loaded: LoadedShard, cut: PartAndRest) -> ShardRest:
        """Store what is done of the rest of a shard, and describe it. Raises `StorageError`."""
        rest, left = cut.rest, cut.left
        if left.is_begun or left.failed or left.begun:
            rest = replace(rest, checkpoint=self.checkpoint(replace(loaded, shard=rest), left))
        return ShardRest(rest, left.worst)

    def save_early(self, loaded: LoadedShard, progress: ShardProgress) -> None:
        """Store what is done so far while the attempt is running, so that it counts if the attempt is lost.

        The next call replaces it. A failure is logged: the attempt continues, and its end will say what is wrong.
        """
        try:
            name = self.checkpoint(loaded, progress)
            if not loaded.early.is_set():
                self._shards.save_checkpoint(loaded.shard.ref, name)
                loaded.early.set()
        except StaleToken:  # another attempt has the shard: only the commit of a straggler counts, no part of it
            self._blobs.delete(name)
        except BatchmillError as error:
            log.warning("what is done of shard %s is not saved yet: %s", loaded.shard.ref.attempt_key, error)

    def finish(self, loaded: LoadedShard, progress: ShardProgress) -> tuple[Completion, pa.Table]:
        """Store the dead letters of a shard that is done; return a description of it, and its results.

        The description's `busy_s` is left for the caller to fill in, and what is about stored results for `store`.
        Raises `StorageError`.
        """
        with self._trace.span(Phase.STORE, shard=loaded.shard.ref.attempt_key):
            return self._finish(loaded, progress)

    def _finish(self, loaded: LoadedShard, progress: ShardProgress) -> tuple[Completion, pa.Table]:
        shard = loaded.shard
        roots_dead, incomplete = None, tuple[int, ...]()
        filters = loaded.definition.expands or loaded.spec.on_null == "skip"
        if progress.dead:
            dead = _dead_rows(loaded, progress)
            # the failed rows of an incomplete source row have been counted
            failed = [letter for letter in dead.letters if letter.error_type != INCOMPLETE]
            roots_dead = len({letter.path[:1] or letter.index for letter in failed})
            if loaded.files.spec.is_gathered_behind(shard.stage):
                incomplete = tuple({letter.path[0] for letter in dead.letters})
            self._blobs.put_table(dead_letters_name(shard.ref), dead.table())
        table = _results(loaded, progress)
        completion = Completion(
            progress.rows_done,
            len(progress.dead),
            0,
            dead_by_type=count_by_type(progress.dead),
            results=table.num_rows if filters else None,
            rows_cached=len(progress.cached),
            rows_filtered=len(progress.empty) if filters and loaded.definition.kind is OperatorKind.BATCH else 0,
            tokens=tokens_of(table, loaded.definition.makes),
            roots_dead=roots_dead,
            incomplete=incomplete,
        )
        return completion, table

    def store(self, loaded: LoadedShard, completion: Completion, results: pa.Table, held: ShardRef) -> Completion:
        """Store the results of a shard, and add to its description where they are.

        held: the attempt that the ledger has, of this stage or of one that it runs with.

        Raises `StorageError`, and `StaleToken` if the job has ended.
        """
        shard, files = loaded.shard, loaded.files
        if results.num_rows == 0:
            return completion
        with self._trace.span(Phase.STORE, shard=shard.ref.attempt_key):
            if files.spec.keeps_rows_together(shard.stage + 1):
                completion = replace(completion, borders=borders_of(results).write())
            if files.may_be_inline and results.nbytes <= MAX_INLINE_BYTES:
                stream = stream_from_table(results)
                return replace(completion, nbytes=len(stream), inline=stream)
            return replace(completion, nbytes=self._write(shard, files, results, held))

    def _write(self, shard: Shard, files: JobFiles, table: pa.Table, held: ShardRef) -> int:
        try:
            return files.results.write(shard.shard_id, shard.token, table)
        except StaleToken:
            if not self._has(held):
                raise
        # the job's results are published, and the ledger says that it runs: it was rolled back, and has lost the end
        files.results.reopen()
        return files.results.write(shard.shard_id, shard.token, table)

    def _has(self, attempt: ShardRef) -> bool:
        """Whether the ledger says that the attempt has the shard."""
        found = self._shards.read(attempt)
        return found is not None and found.state is ShardState.RUNNING and found.token == attempt.token

    def move_out(
        self, shard: Shard, files: JobFiles, completion: Completion, results: pa.Table, held: ShardRef
    ) -> Completion:
        """Write results that the ledger has no room for, or that were not stored, to the result store.

        Raises `StorageError`.
        """
        nbytes = self._write(shard, files, results, held) if results.num_rows else 0
        return replace(completion, inline=b"", nbytes=nbytes)

    def delete(self, shard: Shard, files: JobFiles | None, held: ShardRef) -> None:
        """Delete what this attempt stored, because the shard is another attempt's. Raises `StorageError`.

        held: the attempt that the ledger had: of this shard, of one that it is a part of, or of an earlier stage.
        files: None if the job's were never opened, so that there are no results. The checkpoint stays: if only the
        ledger's answer was lost, the next attempt needs it. It is deleted with the job. So is what another attempt may
        have stored, or may store, under the same name: a ledger that was rolled back gives a token again.
        """
        ref = shard.ref
        if self._shards.may_have_again(ref) or self._shards.may_have_again(held):
            return
        if files is not None:
            files.results.delete(ref.shard_id, ref.token)
        self._blobs.delete(dead_letters_name(ref))
        if files is not None and files.spec.stages[ref.stage].keeps_state:
            self._blobs.delete(state_name(ref.job_id, ref.stage, part_of(ref.shard_id, ref.token)))


def _results(loaded: LoadedShard, progress: ShardProgress) -> pa.Table:
    """Return the results with their lineage first: all of it in a chain, else the source row of what expands."""
    table, expands = progress.table(), loaded.definition.expands
    if not table.num_columns:
        return table
    plain = table.drop_columns([INDEX])
    if loaded.files.spec.has_lineage:
        rows = table[INDEX].to_numpy()
        if loaded.definition.keeps_state:  # what it makes is of many rows: the operator numbers it itself
            lineage, plain = lineage_of(plain), without_lineage(plain)
        else:
            lineage = lineage_of_results(loaded.lineage, rows, loaded.shard.first_row, expands=expands)
        _refuse_lineage(loaded.definition.name, plain, lineage)
    elif expands or loaded.spec.on_null == "skip":
        lineage = pa.table({SOURCE_ROW: table[INDEX]})
        if SOURCE_ROW in plain.column_names:
            plain = plain.drop_columns([SOURCE_ROW])
    else:
        return plain
    for place, name in enumerate(lineage.column_names):
        plain = plain.add_column(place, name, lineage[name])
    return plain


def _refuse_lineage(operator: str, made: pa.Table, lineage: pa.Table) -> None:
    taken = next((name for name in lineage.column_names if name in made.column_names), None)
    if taken is not None:
        raise InvalidOperator(
            f"operator {operator!r} made a column {taken!r}, which Batchmill adds itself.", hint="Give it another name."
        )


def _dead_rows(loaded: LoadedShard, progress: ShardProgress) -> DeadRows:
    """Return the failed rows as the stage got them; in a chain with their paths."""
    shard, files, letters = loaded.shard, loaded.files, tuple(progress.letters)
    rows = loaded.input_rows([letter.index for letter in letters])
    if files.spec.has_lineage:
        letters = tuple(_with_path(letter, loaded.lineage, letter.index - shard.first_row) for letter in letters)
    return DeadRows(letters, rows, count_from_shard=loaded.is_handed)


def _with_path(letter: DeadLetter, lineage: pa.Table | None, place: int) -> DeadLetter:
    path = (letter.index,) if lineage is None else path_at(lineage, place)
    return letter.model_copy(update={"path": path})
