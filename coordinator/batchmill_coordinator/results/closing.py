"""Closing a job's output: the last step before the ledger says that the job has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState
from batchmill.jobs.shard import checkpoint_folder
from batchmill.jobs.stages import last_stage
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.outputs import manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.merger import Merger
    from batchmill_coordinator.results.one_schema import OneSchema
    from batchmill_coordinator.results.resuming.resumption import Resumption
    from batchmill_coordinator.results.roll_forward import RollForward
    from batchmill_coordinator.results.stream_rolls import StreamRolls


class OutputCloser:
    """Publishes the output of a job that ends; merges the results of a replay into the job that it replays.

    record_index: makes known what a job has put into a sink.
    """

    def __init__(
        self,
        ledger: Ledger,
        workspace: Workspace,
        merger: Merger,
        resumption: Resumption,
        rolls: StreamRolls,
        one_schema: OneSchema,
        roll_forward: RollForward,
        record_index: Callable[[JobRecord], None],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._merger = merger
        self._resumption = resumption
        self._rolls = rolls
        self._one_schema = one_schema
        self._roll_forward = roll_forward
        self._record_index = record_index
        self._clock = clock

    def close(self, record: JobRecord, state: JobState, epoch: int) -> None:
        """Close the output of a job that ends in `state`, as the leader. Closing it again is fine.

        The manifest of a job that is not completed also has what it leaves undone, for one that resumes it.
        Raises `StorageError` or another `BatchmillError` if the output cannot be closed.
        """
        if record.replay_of is not None:
            self._merger.merge(record, epoch)
            self._rolls.add_replay(record)
            self._record_index(record)
            return
        self._record_index(record)
        self._one_schema.keep_input_schema(record)
        self._keep_input(record)
        self._rolls.close(record, epoch)
        publisher = self._workspace.open_publisher(record.id, record.spec)
        if publisher is None:
            return
        stage = last_stage(record.spec)
        results = self._workspace.open_results(record.id, record.spec, stage)
        if self._roll_forward.apply(record, stage, publisher, epoch):
            record = self._ledger.jobs.read(record.id)
        self._one_schema.unite(record, stage, results, publisher.replace_part, epoch)
        without_rows = () if record.last.rows_done else self._one_schema.empty_part(record, publisher)
        unfinished = None if state is JobState.COMPLETED else self._resumption.left_by(record)
        finished_at = self._clock.wall()
        publisher.publish(
            manifest_of(self._ledger, record, publisher, results, state, finished_at, unfinished, without_rows)
        )

    def _keep_input(self, record: JobRecord) -> None:
        """Keep the rows of a small job, so that its results can be done again; those in the ledger need not be."""
        if record.spec.source is None and (record.spec.output or record.rows_dead or self._has_stored_results(record)):
            rows = self._ledger.jobs.inline_input(record.id)
            if rows:
                self._workspace.keep_rows(record.id, rows)

    def _has_stored_results(self, record: JobRecord) -> bool:
        stage = last_stage(record.spec)
        for shard in settled_shards(self._ledger, record, stage):
            stored = [part.shard_id for part in shard.parts if part.results]
            if None in self._ledger.results.inline_results(record.id, stage, stored):
                return True
        return False

    def delete_working_data(self, record: JobRecord, state: JobState) -> None:
        """Delete what only the attempts of a job needed, which has ended in `state`. Raises `StorageError`.

        What is between the stages of a completed job is deleted a while later, see `FreedResults`.
        The decompressed text of a job that another one can resume stays until it is deleted.
        """
        self._workspace.blobs.delete_folder(checkpoint_folder(record.id))
        if state is JobState.COMPLETED or record.spec.output is None:
            self._workspace.delete_staged(record.id)
