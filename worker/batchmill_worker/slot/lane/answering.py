"""Interactive requests through operators that are set up: in batches, or row by row in an engine's flow."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.errors import BatchmillError, InvalidRows, OperatorFailed, PayloadTooLarge
from batchmill.jobs.job import StageSpec
from batchmill.operators.contract import OperatorKind, RowError
from batchmill.operators.row_errors import ContextTooLong
from batchmill.sources.json_rows import table_of_rows
from batchmill_worker.engine.assembly import CompletedBatch, assemble
from batchmill_worker.engine.batches import from_batch
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.generation.answers import RowAnswers
from batchmill_worker.generation.tools import StreamedTexts
from batchmill_worker.runtime.failures import Failure
from batchmill_worker.runtime.slot_board import Hook
from batchmill_worker.slot.lane.outbox import MAX_RESULT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.batch_executor import BatchExecutor
    from batchmill_worker.engine.controllers import ControllerCache
    from batchmill_worker.engine.request_executor import RequestExecutor
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.models.ready_operator import ReadyOperator
    from batchmill_worker.runtime.device_time import AttemptUsage
    from batchmill_worker.slot.lane.outbox import Ticket

WAIT_S = 0.1


class LaneAnswers:
    """Answers requests for one operator at a time; see `BatchExecutor` and `RequestExecutor`. Thread-safe.

    batches: the executor of urgent batches. requests: that of the process, whose flows its shards share.
    """

    def __init__(self, batches: BatchExecutor, requests: RequestExecutor, controllers: ControllerCache) -> None:
        self._batches = batches
        self._requests = requests
        self._controllers = controllers

    def answer(self, operator: ReadyOperator, tickets: Sequence[Ticket], usage: AttemptUsage) -> None:
        """Answer requests with equal parameters; every one of them has its last reply afterwards."""
        tables: list[tuple[Ticket, pa.Table]] = []
        for ticket in tickets:
            try:
                tables.append((ticket, _rows_of(operator.definition, ticket)))
            except BatchmillError as error:
                ticket.failed(error)
        definition = operator.definition
        if (
            definition.takes_all or not definition.cacheable
        ):  # its results may depend on all rows: each client has its own
            for pair in tables:
                self._compute(operator, [pair], usage)
            return
        while tables:
            schema = tables[0][1].schema
            together = [pair for pair in tables if pair[1].schema == schema]
            tables = [pair for pair in tables if pair[1].schema != schema]
            self._compute(operator, together, usage)

    def generate(self, operator: ReadyOperator, ticket: Ticket, usage: AttemptUsage) -> None:
        """Answer a request for an operator whose rows enter an engine one by one."""
        try:
            ticket.done(_encoded(self._generate(operator, ticket, usage)))
        except Exception as error:  # noqa: BLE001  # whatever it is, the client must get it
            ticket.failed(_reported(operator.definition.name, error))

    def _compute(self, operator: ReadyOperator, group: list[tuple[Ticket, pa.Table]], usage: AttemptUsage) -> None:
        """Run rows of several requests together; if that fails, those of each one alone."""
        definition, params = operator.definition, group[0][0].request.params
        spec = StageSpec(operator=definition.name, params=params)
        task = ShardTask(
            carry=(),
            batching=self._controllers.batching(definition, spec, operator.backend()),
            has_succeeded=True,
            usage=usage,
            should_stop=lambda: all(ticket.is_aborted for ticket, _ in group),
        )
        try:
            result = self._batches.run(operator, pa.concat_tables([table for _, table in group]), task)
        except Exception as error:  # noqa: BLE001  # whatever it is, the clients must get it
            if len(group) > 1:
                for pair in group:
                    self._compute(operator, [pair], usage)
                return
            group[0][0].failed(_reported(definition.name, error))
            return
        first = 0
        for ticket, table in group:
            _deliver(ticket, result, first, first + table.num_rows)
            first += table.num_rows

    def _generate(self, operator: ReadyOperator, ticket: Ticket, usage: AttemptUsage) -> pa.Table:
        definition, hooks = operator.definition, operator.requests
        rows = ticket.request.rows
        flow = self._requests.flow(operator)
        texts = StreamedTexts(ticket.text, hooks.engine.limits.tool_format)
        shard = flow.enter(
            usage,
            is_urgent=True,
            on_text=texts.more if ticket.request.streams else None,
            tenant=ticket.request.tenant if ticket.request.leaves_places else None,
        )
        answers = RowAnswers()
        ended: dict[int, dict[str, Any]] = {}
        with ExitStack() as leaving:
            leaving.callback(flow.leave, shard)
            for index, row in enumerate(rows):
                with _blaming(definition.name, index), operator.guard.calling(Hook.PREPARE):
                    generations = hooks.render(row, (secrets.randbits(62),), 0)
                    if len(generations) > 1 and ticket.request.streams:
                        raise ContextTooLong("the prompt has to be split, and parts cannot be streamed")
                answers.ask(index, generations)
                texts.expect(index, generations[0])
                for generation in generations:
                    flow.offer(shard, index, generation)
            while len(ended) < len(rows) and not ticket.is_aborted:
                flow.wait(shard, WAIT_S)
                while shard.ended:
                    index, generation, outcome = shard.ended.popleft()
                    with _blaming(definition.name, index), operator.guard.calling(Hook.FINISH):
                        answered = answers.add(index, generation, outcome)
                        if answered is not None:
                            ended[index] = hooks.result(*answered)
        operator.has_succeeded = True
        made = [ended[index] for index in sorted(ended)]
        completed = (
            [CompletedBatch(np.arange(len(made), dtype=np.int64), from_batch(definition, made, len(made)))]
            if made
            else []
        )
        return assemble(definition, pa.table({"_": pa.nulls(len(rows))}), (), completed)[0]


def _rows_of(definition: OperatorDefinition, ticket: Ticket) -> pa.Table:
    """Return the rows of a request. Raises `InvalidRows`."""
    table = table_of_rows(ticket.request.rows)
    for name in definition.required_columns(ticket.request.params):
        if name not in table.column_names or table.column(name).null_count:
            raise InvalidRows(
                f"operator {definition.name!r} needs a value in the column {name!r} of each row.", column=name
            )
    return table


def _deliver(ticket: Ticket, result: ShardResult, first: int, behind: int) -> None:
    """Give a request its part of a result: the rows from `first` to before `behind`."""
    dead = next((row for row in result.dead if first <= row.index < behind), None)
    if dead is not None:
        failure = dead.failure
        ticket.failed(_row_failed(dead.index - first, failure))
        return
    start, end = result.sources.searchsorted([first, behind]).tolist()
    try:
        ticket.done(_encoded(result.table.slice(start, end - start)))
    except PayloadTooLarge as error:
        ticket.failed(error)


def _row_failed(row: int, failure: Failure) -> InvalidRows:
    return InvalidRows(
        f"row {row} failed: {failure.error_type}: {failure.message}", row=row, error_type=failure.error_type
    )


@contextmanager
def _blaming(operator: str, row: int) -> Iterator[None]:
    """Raise what goes wrong in the context as the error for the client."""
    try:
        yield
    except Exception as error:
        raise _reported(operator, error, row) from error


def _reported(operator: str, error: Exception, row: int = 0) -> BatchmillError:
    """Return the error for the client. row: to which a `RowError` is due."""
    if isinstance(error, BatchmillError):
        return error
    failure = Failure.of(error)
    if isinstance(error, RowError):
        return _row_failed(row, failure)
    return OperatorFailed(
        f"operator {operator!r} failed: {failure.error_type}: {failure.message}",
        operator=operator,
        error_type=failure.error_type,
        error=failure.message,
        traceback="",
    )


def _encoded(table: pa.Table) -> bytes:
    if table.nbytes > MAX_RESULT_BYTES:
        raise PayloadTooLarge(
            f"the results of the request have {table.nbytes} bytes, at most {MAX_RESULT_BYTES} are possible.",
            hint="Send fewer rows at a time, or submit a job.",
            limit=MAX_RESULT_BYTES,
        )
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = buffer.getvalue().to_pybytes()
    return encoded


def is_flow(definition: OperatorDefinition) -> bool:
    """Whether rows of an operator enter an engine one by one."""
    return definition.kind is OperatorKind.REQUEST
