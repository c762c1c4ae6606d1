"""One attempt of a shard, from the message to the commit.

1. Claim the shard under a lease; a message whose attempt is over or not there is dropped.
2. Open the job's source and sink, or find them open.
3. Load the shard's rows.
4. Run them through the operator; the device is shared with the attempts that run beside this one.
5. Store the results and the dead letters under this attempt's own names.
6. Commit: from here on they are the shard's. If the shard went to another attempt meanwhile, sweep them up.

An attempt that cannot go on ends by the decision of `retry.decide`, as a lost one does.
"""

from __future__ import annotations

import logging
import random
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from batchmill.clock import Clock, SystemClock
from batchmill.errors import BatchmillError, InvalidParams, InvalidSource, NotFound, StaleToken, UnknownOperator
from batchmill.job import MAX_INLINE_BYTES, JobError
from batchmill.ledger import Completion
from batchmill.retry import Done, Failed, GiveUp, Lost, Outcome, Requeue, RetryPolicy, Revoked, Settle, decide
from batchmill.workspace import stream_from_table, table_from_stream
from batchmill_worker.dead_letters import dead_letters_name, encode_dead_letters
from batchmill_worker.failures import Failure

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.ledger import Claim, Ledger
    from batchmill.operator import OperatorRegistry
    from batchmill.shard import Shard, ShardRef
    from batchmill.workspace import Workspace
    from batchmill_worker.engine import Engine, ShardResult
    from batchmill_worker.jobs import JobFiles, JobShelf
    from batchmill_worker.leases import Heartbeat, Lease
    from batchmill_worker.operator_cache import OperatorCache

log = logging.getLogger(__name__)

HOPELESS = (InvalidSource, InvalidParams, NotFound, UnknownOperator)
"""Errors that another attempt would meet again."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the attempts of a process work with."""

    worker: str
    pool: str
    ledger: Ledger
    workspace: Workspace
    heartbeat: Heartbeat
    shelf: JobShelf
    registry: OperatorRegistry
    operators: OperatorCache
    engine: Engine
    clock: Clock = SystemClock()  # noqa: RUF009  # stateless


class AttemptRunner:
    """Runs attempts, several at once in threads of the caller's."""

    def __init__(self, bench: Bench, policy: RetryPolicy | None = None) -> None:
        self._bench = bench
        self._policy = policy or RetryPolicy()
        self._chance = random.Random()  # noqa: S311  # jitter, no secret

    def run(self, ref: ShardRef) -> None:
        """Run one attempt to its end. Raises `ServiceUnavailable` when the ledger cannot be reached."""
        try:
            claim = self._claim(ref)
            if claim is None:
                log.info("attempt %s is not run: its job takes no more work", ref.member())
                return
            with self._bench.heartbeat.holding(ref) as lease:
                self._end(claim, self._outcome(claim, lease))
        except StaleToken as stale:
            log.info("%s", stale)

    def _claim(self, ref: ShardRef) -> Claim | None:
        bench = self._bench
        holder = f"{bench.worker} {secrets.token_hex(4)}"
        known = bench.shelf.get(ref.job_id) is not None
        return bench.ledger.shards.claim(ref, bench.pool, holder, bench.heartbeat.ttl_ms, with_job=not known)

    def _outcome(self, claim: Claim, lease: Lease) -> Outcome:
        try:
            return self._attempt(claim, lease)
        except BatchmillError as error:
            return Failed(_job_error(error), final=isinstance(error, HOPELESS))
        except Exception as error:  # whatever it is, the shard must not be left behind
            log.exception("attempt %s failed", claim.shard.ref.member())
            failure = Failure.of(error)
            message = f"{failure.error_type}: {failure.message}"
            return Failed(JobError(code="attempt_failed", message=message, details={"traceback": failure.traceback}))

    def _attempt(self, claim: Claim, lease: Lease) -> Outcome:
        clock, shard = self._bench.clock, claim.shard
        started_at = clock.monotonic()
        files = self._files(claim)
        table = files.source.read(shard.slices)
        loaded_at = clock.monotonic()
        result = self._compute(files, table, lease)
        if result.stopped:
            return Revoked()
        computed_at = clock.monotonic()
        self._store_dead(shard, result)
        stored = self._store(shard, files, result)
        work_s = loaded_at - started_at + result.busy_s + clock.monotonic() - computed_at
        return Done(replace(stored, busy_s=work_s))

    def _files(self, claim: Claim) -> JobFiles:
        job_id = claim.shard.job_id
        kept = self._bench.shelf.get(job_id)
        if kept is not None:
            return kept
        if claim.spec is None:  # it fell off the shelf since the claim
            record = self._bench.ledger.jobs.read(job_id)
            return self._bench.shelf.open(job_id, record.spec, self._bench.ledger.jobs.inline_input(job_id) or b"")
        return self._bench.shelf.open(job_id, claim.spec, claim.inline_rows)

    def _compute(self, files: JobFiles, table: pa.Table, lease: Lease) -> ShardResult:
        spec = files.spec
        definition = self._bench.registry.get(spec.operator)
        if definition is None:
            raise UnknownOperator(f"worker {self._bench.worker} has no operator {spec.operator!r}.")
        with self._bench.operators.borrow(definition, spec.params) as operator:
            return self._bench.engine.run(operator, table, spec.carry, lease.should_stop)

    def _store_dead(self, shard: Shard, result: ShardResult) -> None:
        if result.dead:
            letters = encode_dead_letters(shard, result.dead, self._bench.worker, self._bench.clock.wall())
            self._bench.workspace.blobs.put(dead_letters_name(shard.ref), letters)

    def _store(self, shard: Shard, files: JobFiles, result: ShardResult) -> Completion:
        table, rows_dead = result.table, len(result.dead)
        if files.rides_inline and table.nbytes <= MAX_INLINE_BYTES:
            stream = stream_from_table(table)
            return Completion(table.num_rows, rows_dead, len(stream), inline=stream)
        if table.num_rows == 0:
            return Completion(0, rows_dead, 0)
        part = files.sink.write(shard.shard_id, shard.token, table)
        return Completion(table.num_rows, rows_dead, part.bytes)

    def _end(self, claim: Claim, outcome: Outcome) -> None:
        shard = claim.shard
        match decide(shard, outcome, self._policy, self._chance):
            case Settle(completion):
                self._commit(claim, completion)
            case Requeue(delay_s, blame):
                log.warning("shard %s is put back: %s", shard.ref.member(), _why(outcome))
                self._bench.ledger.shards.fail(shard.ref, delay_s=delay_s, blame=blame)
            case GiveUp(error):
                log.error("job %s fails on shard %s: %s", shard.job_id, shard.ref.member(), error.message)
                self._bench.ledger.shards.fail(shard.ref, delay_s=0.0, blame=True, stop_with=error)
            case never:
                assert_never(never)

    def _commit(self, claim: Claim, completion: Completion) -> None:
        shard, ledger = claim.shard, self._bench.ledger
        try:
            if ledger.shards.commit(shard.ref, completion):
                return
            table = table_from_stream(completion.inline)  # the job's results outgrew the ledger
            part = self._files(claim).sink.write(shard.shard_id, shard.token, table)
            ledger.shards.commit(shard.ref, replace(completion, inline=b"", nbytes=part.bytes))
        except StaleToken:
            self._sweep(claim)
            raise

    def _sweep(self, claim: Claim) -> None:
        """Delete what this attempt stored; the shard is another's."""
        ref, sink = claim.shard.ref, self._files(claim).sink
        sink.delete(sink.part_name(ref.shard_id, ref.token))
        self._bench.workspace.blobs.delete(dead_letters_name(ref))


def _job_error(error: BatchmillError) -> JobError:
    return JobError(code=error.code, message=str(error), details=error.details)


def _why(outcome: Outcome) -> str:
    match outcome:
        case Failed(error):
            return error.message
        case Revoked():
            return "the worker was told to let go"
        case Done() | Lost():
            return "it is over"
        case never:
            assert_never(never)
