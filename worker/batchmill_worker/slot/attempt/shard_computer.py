"""The third step of an attempt: its rows go through the operator, or come out of the row cache."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchmill.jobs.files import UploadSource
from batchmill.jobs.stateful.step import StateStep
from batchmill_worker.engine.executor import ShardTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from batchmill_worker.engine.controllers import ControllerCache
    from batchmill_worker.engine.executor import Executors
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.engine.stage_costs import StageCosts
    from batchmill_worker.engine.trend_recorder import TrendRecorder
    from batchmill_worker.models.operator_cache import OperatorCache
    from batchmill_worker.row_cache.cache import RowCache
    from batchmill_worker.slot.attempt.claimer import ClaimedShard
    from batchmill_worker.slot.attempt.shard_loader import LoadedShard


class ShardComputer:
    """Runs loaded shards through operators. Thread-safe; the executors decide what runs at the same time."""

    def __init__(
        self,
        executors: Executors,
        operators: OperatorCache,
        controllers: ControllerCache,
        row_cache: RowCache,
        costs: StageCosts,
        trends: TrendRecorder,
    ) -> None:
        self._executors = executors
        self._operators = operators
        self._controllers = controllers
        self._row_cache = row_cache
        self._costs = costs
        self._trends = trends

    def compute(
        self, loaded: LoadedShard, claimed: ClaimedShard, save: Callable[[ShardResult], None] | None = None
    ) -> ShardResult:
        """Run the rows, setting the operator up first if need be. Stop early when the lease says so.

        save: see `ShardTask`; of an operator whose rows do not come from the row cache.

        Raises what `OperatorCache.borrow` and `Executor.run` raise.
        """
        spec, definition, usage = loaded.spec, loaded.definition, claimed.usage
        executor = self._executors.of(definition)
        with self._operators.borrow(definition, spec.params, usage.loading) as operator:
            backend = operator.backend()
            task = ShardTask(
                carry=_carried(loaded),
                should_stop=claimed.lease.should_stop,
                batching=self._controllers.batching(definition, spec, backend, loaded.shard.job_id),
                has_succeeded=bool(loaded.before.results) or _failed_before(loaded),
                attempt_id=loaded.shard.ref.attempt_key,
                usage=usage,
                ref=loaded.shard.ref,
                lineage=loaded.pending_lineage,
                rows=loaded.pending,
                failures=loaded.failures,
                begun=loaded.begun,
                max_bytes=loaded.max_new_bytes,
                save=save,
                step=StateStep.of(loaded.shard) if definition.keeps_state else None,
                unfit=loaded.unfit,
            )

            def compute(rows: pa.Table) -> ShardResult:
                started_at, before = time.perf_counter(), usage.measured()
                result = executor.run(operator, rows, task)
                if result.rows_settled:
                    self._costs.add(definition, spec, result.rows_settled, time.perf_counter() - started_at)
                    self._trends.add(definition, spec, loaded.shard.job_id, usage.measured() - before, backend)
                return result

            result = (
                compute(loaded.table) if not spec.cache else self._row_cache.run(operator, spec, loaded.table, compute)
            )
        self._controllers.save()
        return result


def _carried(loaded: LoadedShard) -> Sequence[str] | None:
    """Return the columns that results keep; None: all. Behind the first stage columns are known only here."""
    if loaded.definition.gathers:
        return loaded.spec.carry or ()
    consumed = loaded.definition.consumed_columns(loaded.spec.params) if loaded.spec.carry is None else []
    return [name for name in loaded.table.column_names if name not in consumed] if consumed else loaded.spec.carry


def _failed_before(loaded: LoadedShard) -> bool:
    """Return whether the rows failed in another job, so that nothing is known of the operator if they fail again."""
    source = loaded.files.spec.source
    return isinstance(source, UploadSource) and source.failed_before
