"""One attempt of a shard, from the message to the commit.

1. Claim the shard under a lease; a message whose attempt is over or not there is dropped.
2. Open the job's source and sink, or find them open.
3. Load the shard's rows, without those that earlier attempts have done.
4. Run them through the operator; the device is shared with the attempts that run beside this one.
5. If rows are left, because they failed and may be tried again or because the worker is being stopped: keep what is
   done for the next attempt. If none will follow, because the job is stopping, what is done is all there will be.
6. Otherwise store the results and the dead letters under this attempt's own names.
7. Commit: from here on they are the shard's, and its job is charged for the time this attempt used. If the shard went
   to another attempt meanwhile, sweep them up.

An attempt that cannot go on ends by the decision of `retry.decide`, as a lost one does.
"""

from __future__ import annotations

import logging
import random
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

import pyarrow as pa

from batchmill.completion import Completion, DeadLimit
from batchmill.dead_letters import DeadRows, count_by_type, dead_letters_name, part_of
from batchmill.errors import BatchmillError, InvalidParams, InvalidSource, NotFound, StaleToken, UnknownOperator
from batchmill.job import MAX_INLINE_BYTES, JobError, RetryPolicy
from batchmill.retry import (
    DeadLetter,
    Done,
    Failed,
    GiveUp,
    Lost,
    Outcome,
    Partial,
    Requeue,
    Revoked,
    Settle,
    Split,
    decide,
)
from batchmill.telemetry.log_context import about_attempt
from batchmill.workspace import stream_from_table, table_from_stream
from batchmill_worker.runtime.attempt_end import Ending, EndingKind
from batchmill_worker.runtime.failures import Failure
from batchmill_worker.runtime.trace import Phase
from batchmill_worker.slot.attempt_log import dead_rows, failed_rows, note_ending
from batchmill_worker.slot.shard_progress import ShardProgress, Told, decode_progress, encode_progress

if TYPE_CHECKING:
    from batchmill.cost import Parts
    from batchmill.job import JobSpec
    from batchmill.ledger import Claim
    from batchmill.operators.contract import OperatorDefinition
    from batchmill.shard import Shard, ShardRef
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.metering.attempts import AttemptMeter
    from batchmill_worker.runtime.cost_meter import Account
    from batchmill_worker.slot.job_cache import JobFiles
    from batchmill_worker.slot.leases import Lease
    from batchmill_worker.slot.wiring import Bench

log = logging.getLogger(__name__)

HOPELESS = (InvalidSource, InvalidParams, NotFound, UnknownOperator)
"""Errors that another attempt would meet again."""


class AttemptRunner:
    """Runs attempts, several at once in threads of the caller's."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._chance = random.Random()  # noqa: S311  # jitter, no secret

    def run(self, ref: ShardRef) -> Ending:
        """Run one attempt to its end. Raises `ServiceUnavailable` when the ledger cannot be reached."""
        with about_attempt(ref):
            return self._run_claimed(ref)

    def _run_claimed(self, ref: ShardRef) -> Ending:
        try:
            with self._bench.meter.attempt(ref.member()) as counted:
                return self._claim_and_run(ref, counted)
        except StaleToken as stale:
            log.info("%s", stale)
            return Ending(EndingKind.DROPPED, str(stale))

    def _claim_and_run(self, ref: ShardRef, counted: AttemptMeter) -> Ending:
        with self._bench.engine.trace.span(Phase.CLAIM, shard=ref.member()):
            claim = self._claim(ref)
        if claim is None:
            log.info("attempt %s is not run: its job takes no more work", ref.member())
            return Ending(EndingKind.DROPPED, "its job takes no more work")
        account = self._bench.usage.open()
        try:
            with self._bench.heartbeat.holding(ref, account) as lease:
                return self._run(claim, lease, account, counted)
        finally:
            account.close()

    def _run(self, claim: Claim, lease: Lease, account: Account, counted: AttemptMeter) -> Ending:
        spec = self._spec(claim)
        if spec is not None:
            counted.operator = spec.operator
        try:
            outcome = self._outcome(claim, lease, account)
            ending = self._end(claim, outcome, account)
        except StaleToken:
            self._sweep(claim)
            raise
        self._bench.meter.ended(counted, outcome, ending)
        note_ending(self._bench.ledger.log, self._bench.worker, claim.shard.ref, outcome, ending)
        return ending

    def _claim(self, ref: ShardRef) -> Claim | None:
        bench = self._bench
        holder = f"{bench.worker} {secrets.token_hex(4)}"
        known = bench.shelf.get(ref.job_id) is not None
        return bench.ledger.shards.claim(
            ref,
            bench.pool,
            holder,
            bench.heartbeat.ttl_ms,
            with_job=not known,
            price_nano=bench.price_nano,
            sharers=len(bench.usage.working) + 1,
        )

    def _outcome(self, claim: Claim, lease: Lease, account: Account) -> Outcome:
        try:
            return self._attempt(claim, lease, account)
        except BatchmillError as error:
            kind = str(error.details.get("error_type", type(error).__name__))
            return Failed(_job_error(error), kind, final=isinstance(error, HOPELESS))
        except Exception as error:  # whatever it is, the shard must not be left behind
            log.exception("attempt %s failed", claim.shard.ref.member())
            failure = Failure.of(error)
            message = f"{failure.error_type}: {failure.message}"
            told = JobError(code="attempt_failed", message=message, details={"traceback": failure.traceback})
            return Failed(told, failure.error_type)

    def _attempt(self, claim: Claim, lease: Lease, account: Account) -> Outcome:
        clock, shard = self._bench.clock, claim.shard
        started_at = clock.monotonic()
        with self._bench.engine.trace.span(Phase.LOAD, shard=shard.ref.member()):
            files = self._files(claim)
            before = self._kept(shard)
            pending = before.pending(shard)
            table = files.source.read(shard.slices).slice(shard.skip, shard.rows)
            if before.is_begun:
                table = table.take(pending - shard.first_row)
        loaded_at = clock.monotonic()
        result = self._compute(shard, files, table, lease, account, proven=bool(before.results))
        computed_at = clock.monotonic()
        self._bench.meter.rows_failed(files.spec.operator, (row.failure.error_type for row in result.dead))
        self._bench.tuners.save()
        progress = before.add(pending, result, self._told(files))
        if result.stopped and not progress.is_begun:
            return Revoked()
        if (result.stopped or progress.failed) and not lease.is_last:
            return self._keep(shard, progress, result)
        with self._bench.engine.trace.span(Phase.STORE, shard=shard.ref.member()):
            stored = self._store(shard, files, progress)
        work_s = loaded_at - started_at + result.busy_s + clock.monotonic() - computed_at
        return Done(replace(stored, busy_s=work_s), dead_rows(progress))

    def _kept(self, shard: Shard) -> ShardProgress:
        if not shard.kept:
            return ShardProgress()
        return decode_progress(self._bench.workspace.blobs.read_table(shard.kept)).window(shard)

    def _told(self, files: JobFiles) -> Told:
        return Told(files.spec.operator, self._bench.worker, self._bench.clock.wall(), files.spec.retry)

    def _keep(self, shard: Shard, progress: ShardProgress, result: ShardResult) -> Partial:
        name = _kept_name(shard)
        self._bench.workspace.blobs.put_table(name, encode_progress(progress))
        failures = 0 if result.stopped else progress.worst
        return Partial(name, failures, failed_rows(progress, result) if failures else None)

    def _files(self, claim: Claim) -> JobFiles:
        job_id = claim.shard.job_id
        kept = self._bench.shelf.get(job_id)
        if kept is not None:
            return kept
        if claim.spec is None:  # it fell off the shelf since the claim
            record = self._bench.ledger.jobs.read(job_id)
            return self._bench.shelf.open(job_id, record.spec, self._bench.ledger.jobs.inline_input(job_id) or b"")
        return self._bench.shelf.open(job_id, claim.spec, claim.inline_rows)

    def _compute(
        self, shard: Shard, files: JobFiles, table: pa.Table, lease: Lease, account: Account, *, proven: bool
    ) -> ShardResult:
        spec, definition = files.spec, self._definition(files)
        with self._bench.operators.borrow(definition, spec.params, account.loading) as operator:
            batching = self._bench.tuners.batching(definition, spec)

            def compute(rows: pa.Table) -> ShardResult:
                return self._bench.engine.run(
                    operator,
                    rows,
                    spec.carry,
                    lease.should_stop,
                    batching=batching,
                    proven=proven,
                    whose=shard.ref.member(),
                    account=account,
                )

            return self._bench.rows.run(operator, spec, table, compute) if spec.cache else compute(table)

    def _definition(self, files: JobFiles) -> OperatorDefinition:
        definition = self._bench.registry.get(files.spec.operator)
        if definition is None:
            raise UnknownOperator(f"worker {self._bench.worker} has no operator {files.spec.operator!r}.")
        return definition

    def _store(self, shard: Shard, files: JobFiles, progress: ShardProgress) -> Completion:
        if progress.dead:
            dead = _dead_rows(shard, files, progress)
            self._bench.workspace.blobs.put_table(dead_letters_name(shard.ref), dead.table())
        expands = self._definition(files).expands
        table = progress.table(with_source_row=expands)
        stored = Completion(
            progress.rows_done,
            len(progress.dead),
            0,
            dead_by_type=count_by_type(progress.dead),
            results=table.num_rows if expands else None,
            rows_cached=len(progress.cached),
        )
        if table.num_rows == 0:
            return stored
        if files.rides_inline and table.nbytes <= MAX_INLINE_BYTES:
            stream = stream_from_table(table)
            return replace(stored, nbytes=len(stream), inline=stream)
        return replace(stored, nbytes=files.sink.write(shard.shard_id, shard.token, table).bytes)

    def _end(self, claim: Claim, outcome: Outcome, account: Account) -> Ending:
        shard, shards = claim.shard, self._bench.ledger.shards
        match decide(shard, outcome, self._policy(claim), self._chance):
            case Settle(completion):
                self._commit(claim, completion, account.close())
                return Ending.of_commit(completion)
            case Requeue(delay_s, blame, kept):
                log.warning("shard %s is put back for %.1f s: %s", shard.ref.member(), delay_s, _why(outcome))
                used = account.close() if kept else account.close().as_wasted()
                shards.fail(shard.ref, delay_s=delay_s, blame=blame, kept=kept, used=used)
                return Ending(EndingKind.PUT_BACK, _why(outcome))
            case GiveUp(error):
                log.error("job %s fails on shard %s: %s", shard.job_id, shard.ref.member(), error.message)
                shards.fail(shard.ref, delay_s=0.0, blame=True, stop_with=error, used=account.close().as_wasted())
                return Ending(EndingKind.FAILED, error.message)
            case Split() | DeadLetter():
                raise AssertionError("only a lost attempt is split or buried, and that is the recoverer's to do")
            case never:
                assert_never(never)

    def _policy(self, claim: Claim) -> RetryPolicy:
        spec = self._spec(claim)
        return spec.retry if spec else RetryPolicy()

    def _spec(self, claim: Claim) -> JobSpec | None:
        files = self._bench.shelf.get(claim.shard.job_id)
        return files.spec if files else claim.spec

    def _commit(self, claim: Claim, completion: Completion, used: Parts) -> None:
        shard, shards, files = claim.shard, self._bench.ledger.shards, self._files(claim)
        limit = DeadLimit.of(files.spec)
        with self._bench.engine.trace.span(Phase.COMMIT, shard=shard.ref.member()):
            if shards.commit(shard.ref, completion, limit, used):
                return
        table = table_from_stream(completion.inline)  # the job's results outgrew the ledger
        part = files.sink.write(shard.shard_id, shard.token, table)
        shards.commit(shard.ref, replace(completion, inline=b"", nbytes=part.bytes), limit, used)

    def _sweep(self, claim: Claim) -> None:
        """Delete what this attempt stored; the shard is another's.

        Not what it kept for the next one: if only the ledger's answer was lost, that is in use. It goes with the job's
        end.
        """
        ref, files = claim.shard.ref, self._bench.shelf.get(claim.shard.job_id)
        if files is not None:
            files.sink.delete(files.sink.part_name(ref.shard_id, ref.token))
        self._bench.workspace.blobs.delete(dead_letters_name(ref))


def _dead_rows(shard: Shard, files: JobFiles, progress: ShardProgress) -> DeadRows:
    letters = tuple(progress.letters)
    places = pa.array([shard.skip + letter.index - shard.first_row for letter in letters], pa.int64())
    return DeadRows(letters, files.source.read(shard.slices).take(places))


def _kept_name(shard: Shard) -> str:
    return f"jobs/{shard.job_id}/kept/{part_of(shard.shard_id, shard.token)}.arrow"


def _job_error(error: BatchmillError) -> JobError:
    return JobError(code=error.code, message=str(error), details=error.details)


def _why(outcome: Outcome) -> str:
    match outcome:
        case Failed(error):
            return error.message
        case Partial(failures=failures):
            return "some rows failed and are tried again" if failures else "the worker lets go; what is done is kept"
        case Revoked():
            return "the worker was told to let go"
        case Done() | Lost():
            return "it is over"
        case never:
            assert_never(never)
