"""The seam between an attempt and what runs its rows: a shard goes in, a `ShardResult` comes out.

Kinds of operators need ways of running of their own, behind one protocol:

1. An operator that takes batches is driven by `BatchExecutor`: the device runs one batch of one shard at a time.
2. An engine that takes requests, as one for language models does, has rows of several shards in flight at once; each
   enters and leaves by itself. `RequestExecutor` is shared by all shards of the process like the other one, returns to
   each caller its own rows, and declares to the meter which rows of each attempt are in flight.
3. An operator that writes to a store takes a complete shard, and does not use the device: `StoreExecutor`.
4. Neither does one that keeps state, which also takes what it has left at the shard before: `StateExecutor`.

`Executors` is the one place where the kind of an operator decides. Neither an attempt nor the row cache knows which
executor it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, assert_never

from batchmill.operators.contract import OperatorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from batchmill.columns import UnfitValue
    from batchmill.jobs.shard import ShardRef
    from batchmill.jobs.stateful.step import StateStep
    from batchmill.operators.contract import OperatorDefinition, RowError
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.batching.sizing import Batching
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.generation.base import BegunAnswer
    from batchmill_worker.models.ready_operator import ReadyOperator
    from batchmill_worker.runtime.device_time import AttemptUsage


def never_stop() -> bool:
    """Let a shard run to its end."""
    return False


@dataclass(frozen=True, slots=True)
class ShardTask:
    """How to run the rows of one shard.

    carry: the input columns that results keep; None: all. A column that the operator makes replaces the carried one of
        that name, in its place; the others follow.
    should_stop: whether to stop and return what is settled; asked often, so it must be cheap.
    batching: how large batches are, where there are batches; None: as the operator says, with nothing learned yet.
    has_succeeded: whether earlier attempts have done rows of this shard; then failing rows are the rows' fault.
    attempt_id: the attempt to name in traces.
    usage: the account of its time on the device; None: nobody's.
    ref: the attempt; None: it is not one of a shard.
    lineage: where each row is from; None: they are rows of the job's source.
    rows: the index of each row in the stage's input; None: from 0.
    failures: how often rows failed before, by their index in the table.
    begun: answers that an earlier attempt has begun, in the same way.
    max_bytes: of results, beyond which to stop after the batch that passes it; None: no limit.
    step: what the shard is in the sequence of those of a stage that keeps state.
    unfit: values that the rows of such a stage lack, as in `RowsRead`.
    save: stores what is settled so far, for the next attempt if this one is lost; None: nobody does. It does not raise.
    """

    carry: Sequence[str] | None = None
    should_stop: Callable[[], bool] = never_stop
    batching: Batching | None = None
    has_succeeded: bool = False
    attempt_id: str = ""
    usage: AttemptUsage | None = None
    ref: ShardRef | None = None
    lineage: pa.Table | None = None
    rows: Rows | None = None
    failures: Mapping[int, int] = field(default_factory=dict)
    begun: Mapping[int, BegunAnswer] = field(default_factory=dict)
    max_bytes: int | None = None
    save: Callable[[ShardResult], None] | None = None
    step: StateStep | None = None
    unfit: Sequence[UnfitValue] = ()


@dataclass(frozen=True, slots=True)
class ShardRows:
    """All rows of an attempt, as an operator of the kind `SHARD` takes them. lineage: where each is from."""

    rows: pa.Table
    lineage: pa.Table
    ref: ShardRef


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """What such an operator returns: columns of one result for all rows, and the errors of rows, by their place."""

    columns: dict[str, str | int]
    errors: dict[int, RowError]


ALL_DEFAULTS = ShardTask()


class Executor(Protocol):
    """Runs the rows of one shard. One executor serves all shards that a process runs at once, in any thread."""

    def run(self, operator: ReadyOperator, table: pa.Table, task: ShardTask = ALL_DEFAULTS) -> ShardResult:
        """Run the rows of `table`, one shard or the part of it that is left, and return what became of them.

        Rows settle in any order, and the result is in input order. When `task.should_stop` is true, or the results
        have `task.max_bytes`, return at the next opportunity with the rows that are settled; a row that is not settled
        is left to the next attempt.

        Raises `OperatorFailed` when rows fail for no fault of theirs, `InvalidOperator` when what the operator returns
        does not fit the contract, `InvalidRows` when a carried column is missing, and any `BatchmillError` that the
        operator raises.
        """
        ...


class Executors:
    """The executors of a device process."""

    def __init__(self, batches: Executor, stores: Executor, requests: Executor, states: Executor) -> None:
        self._batches = batches
        self._stores = stores
        self._requests = requests
        self._states = states

    def of(self, definition: OperatorDefinition) -> Executor:
        """Return the executor for an operator of this kind."""
        match definition.kind:
            case OperatorKind.BATCH:
                return self._batches
            case OperatorKind.SHARD:
                return self._stores
            case OperatorKind.REQUEST:
                return self._requests
            case OperatorKind.STATE:
                return self._states
            case never:
                assert_never(never)
