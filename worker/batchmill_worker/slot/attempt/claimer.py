"""The first step of an attempt: its claim, under a lease that is renewed and a meter that runs."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.ledger.formats.encodings import write_holder
from batchmill_worker.runtime.exclusion import Exclusion
from batchmill_worker.runtime.trace import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.jobs.job import StageSpec
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Claim
    from batchmill.ledger.shards import ShardLedger
    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.runtime.device_time import AttemptUsage
    from batchmill_worker.runtime.trace import Recorder
    from batchmill_worker.slot.job_cache import JobFilesCache
    from batchmill_worker.slot.leases import Heartbeat, Lease


@dataclass(frozen=True, slots=True)
class ClaimTerms:
    """What a device process claims shards as. price_nano: of an hour, in billionths of the currency's unit."""

    worker: str
    pool: str
    price_nano: int = 0


@dataclass(frozen=True, slots=True)
class ClaimedShard:
    """A shard that this process may run, until the lease says otherwise."""

    claim: Claim
    spec: StageSpec | None  # None: unknown until the job is read again
    lease: Lease
    usage: AttemptUsage


class Claimer:
    """Claims shards for one device process. Thread-safe."""

    def __init__(
        self, shards: ShardLedger, job_files: JobFilesCache, heartbeat: Heartbeat, terms: ClaimTerms, trace: Recorder
    ) -> None:
        self._shards = shards
        self._job_files = job_files
        self._heartbeat = heartbeat
        self._terms = terms
        self._trace = trace
        self._exclusion = Exclusion()

    @contextmanager
    def claim(self, ref: ShardRef, definition: OperatorDefinition | None = None) -> Iterator[ClaimedShard | None]:
        """Claim an attempt and hold its lease while the context lasts; None when its job takes no more work.

        Where an attempt of the shard was lost before, wait until no other attempt runs, and keep others waiting.

        definition: of the operator that would run it; None: its version is not compared.

        Raises `StaleToken` when the attempt is for another version of the operator, or not there to be claimed, and
        `ServiceUnavailable` without the ledger.
        """
        with self._heartbeat.board.claiming(ref.attempt_key):  # before the claim: the supervisor keeps what it finds
            with self._trace.span(Phase.CLAIM, shard=ref.attempt_key):
                claim = self._claim(ref, definition)
            if claim is None:
                yield None
                return
            stage = self._job_files.stage_of(claim)
            with self._heartbeat.holding(ref) as lease, self._exclusion.entered(alone=claim.shard.losses > 0):
                yield ClaimedShard(claim, stage, lease, lease.usage)

    def _claim(self, ref: ShardRef, definition: OperatorDefinition | None) -> Claim | None:
        return self._shards.claim(
            ref,
            self._terms.pool,
            write_holder(self._terms.worker, secrets.token_hex(4)),  # unique, since a message may arrive twice
            self._heartbeat.ttl_ms,
            with_job=self._job_files.get(ref.job_id, ref.stage) is None,
            price_nano=self._terms.price_nano,
            sharers=self._heartbeat.attempts_at_work + 1,
            version=definition.version if definition else "",
            revision=definition.revision if definition else "",
        )
