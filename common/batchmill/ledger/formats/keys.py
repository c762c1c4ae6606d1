"""Every key that Batchmill keeps in Redis, one function each; no key is spelled anywhere else.

The schema of each key is in the header of the script that writes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from batchmill.jobs.shard import ShardId, format_shard_id


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys under one prefix. Keys of one job share a hash tag, its id."""

    prefix: str

    def schema(self) -> str:
        """String: the version of the data formats that this ledger is kept in."""
        return f"{self.prefix}schema"

    def probe(self) -> str:
        """String without meaning, with a life: written to see that the server takes writes."""
        return f"{self.prefix}probe"

    def identity(self) -> str:
        """Hash: `ledger_id`, which a new ledger draws, and `revision`, which the leader raises."""
        return f"{self.prefix}identity"

    def marking(self) -> str:
        """String without meaning, with a life: who has set it may mark the blob store of a ledger that has none."""
        return f"{self.prefix}marking"

    def orphans(self) -> str:
        """Sorted set: blob folders of jobs that the ledger does not know, scored by when that was noted (ms)."""
        return f"{self.prefix}orphans"

    def clock_seen(self) -> str:
        """String: the last time of this server that a leader read and trusted (ms)."""
        return f"{self.prefix}clock:seen"

    def jobs(self) -> str:
        """Sorted set: every job's id, scored by when it was created (ms)."""
        return f"{self.prefix}jobs"

    def live_jobs(self) -> str:
        """Sorted set: the ids of jobs that have not ended, scored by when they were submitted (ms)."""
        return f"{self.prefix}jobs:live"

    def streams(self) -> str:
        """Sorted set: the ids of jobs that read streams and have not ended, scored by when they were submitted (ms)."""
        return f"{self.prefix}jobs:streams"

    def drained_jobs(self) -> str:
        """Sorted set: completed jobs over a stream whose settled rows were not reported to it, by end time (ms)."""
        return f"{self.prefix}jobs:drained"

    def index(self) -> str:
        """What the keys of the indexes begin with; see `_indexes.lua` for the rest of them."""
        return f"{self.prefix}index:"

    def ended_jobs(self) -> str:
        """Sorted set: the ids of jobs that have ended, scored by when (ms); 0: to be deleted now."""
        return f"{self.prefix}jobs:ended"

    def between_stages(self) -> str:
        """Sorted set: the ids of completed jobs with results between stages to be deleted, by when they ended (ms)."""
        return f"{self.prefix}jobs:between"

    def unreported(self) -> str:
        """List: jobs that their last commit ended, and that no leader has counted yet."""
        return f"{self.prefix}jobs:unreported"

    def idempotency(self, idempotency_key: str) -> str:
        """String: the id and the request digest of the job that was submitted under a client's key."""
        return f"{self.prefix}idempotency:{hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]}"

    def absent(self) -> str:
        """No key: what a script is given in place of one that is left out, see `given_key` in `_encodings.lua`."""
        return f"{self.prefix}:absent"

    def leader(self) -> str:
        """String with a lease: "epoch name" of the coordinator that leads."""
        return f"{self.prefix}leader"

    def leader_epoch(self) -> str:
        """Counter: how often leadership has changed."""
        return f"{self.prefix}leader:epoch"

    def leases(self) -> str:
        """Sorted set: attempts that run, scored by when their lease ends (ms); below 0: when their process died."""
        return f"{self.prefix}leases"

    def leases_seen(self) -> str:
        """String: when a leader last looked at the leases (ms)."""
        return f"{self.prefix}leases:seen"

    def queued(self, pool: str) -> str:
        """Sorted set: attempts published to a pool's queue and not claimed, scored by when (ms)."""
        return f"{self.prefix}queued:{pool}"

    def endpoint(self, endpoint: str) -> str:
        """Hash, with a life: what a service takes in a minute, by a digest of its address and key."""
        return f"{self.prefix}endpoint:{endpoint}"

    def lane(self, pool: str, model: str) -> str:
        """List: interactive requests that wait for a worker of a pool which has a model loaded; expires."""
        return f"{self.prefix}lane:{pool}|{model}"

    def lane_loads(self, pool: str) -> str:
        """List: models that a worker of a pool is to load; expires."""
        return f"{self.prefix}lane:loads:{pool}"

    def lane_load(self, pool: str, model: str) -> str:
        """String with a life: empty while a model is to be loaded, else why that failed."""
        return f"{self.prefix}lane:load:{pool}|{model}"

    def lane_replies(self, coordinator: str) -> str:
        """Channel: what workers reply to the interactive requests of a coordinator."""
        return f"{self.prefix}lane:replies:{coordinator}"

    def lane_result(self, attempt: str) -> str:
        """String with a life: results of an interactive request that are too large for a channel."""
        return f"{self.prefix}lane:result:{attempt}"

    def charged_calls(self, process: str) -> str:
        """String with a life: the number of the last charge of a process for interactive requests."""
        return f"{self.prefix}lane:charged:{process}"

    def lane_aborts(self, worker: str) -> str:
        """Channel: the interactive requests that a worker is to drop."""
        return f"{self.prefix}lane:aborts:{worker}"

    def workers(self) -> str:
        """Hash: worker name to its description in JSON."""
        return f"{self.prefix}workers"

    def workers_seen(self) -> str:
        """Sorted set: worker names, scored by when their presence ends (ms)."""
        return f"{self.prefix}workers:seen"

    def operators(self) -> str:
        """Hash: operator name to its announcement in JSON."""
        return f"{self.prefix}operators"

    def profiles(self) -> str:
        """Hash: operator, parameters and device type to what batches of it were found to cost, in JSON."""
        return f"{self.prefix}profiles"

    def profiles_used(self) -> str:
        """Sorted set: the names of profiles, scored by when they were written last (ms)."""
        return f"{self.prefix}profiles:used"

    def trends(self) -> str:
        """Hash: operator, parameters and device type to what jobs took of it, see `trend.lua`."""
        return f"{self.prefix}trends"

    def trends_used(self) -> str:
        """Sorted set: the names of these histories, scored by when they were written last (ms)."""
        return f"{self.prefix}trends:used"

    def trials(self) -> str:
        """Hash: operator, version, parameters and device type to the trials of its settings, see `trial.lua`."""
        return f"{self.prefix}trials"

    def trials_used(self) -> str:
        """Sorted set: the names of these journals, scored by when they were written last (ms)."""
        return f"{self.prefix}trials:used"

    def cache_index(self) -> str:
        """Hash: digest of a row to where its results are in the row cache."""
        return f"{self.prefix}cache:index"

    def cache_segments(self) -> str:
        """Hash: segment of the row cache to its size and the digests that the index has of it."""
        return f"{self.prefix}cache:segments"

    def cache_used(self) -> str:
        """Sorted set: segments of the row cache, scored by when they were used last (ms)."""
        return f"{self.prefix}cache:used"

    def cache_loose(self) -> str:
        """Sorted set: segments that the index does not have (yet), scored by when their blobs are to go (ms)."""
        return f"{self.prefix}cache:loose"

    def cache_totals(self) -> str:
        """Hash: the row cache's counters."""
        return f"{self.prefix}cache:totals"

    def cost_tenants(self) -> str:
        """Hash: what the jobs of each tenant cost."""
        return f"{self.prefix}costs:tenants"

    def cost_pools(self) -> str:
        """Hash: what each operator cost in each pool."""
        return f"{self.prefix}costs:pools"

    def cost_days(self) -> str:
        """Hash: what was charged on each day, since the epoch."""
        return f"{self.prefix}costs:days"

    def quota_marks(self, period_s: int, number: int) -> str:
        """Hash, with a life: tenant to the microseconds that it had been charged when a period began."""
        return f"{self.prefix}costs:marks:{period_s}:{number}"

    def costs(self) -> list[str]:
        """The sums that every charge goes into, beside those of its job."""
        return [self.cost_tenants(), self.cost_pools(), self.cost_days()]

    def scale(self) -> str:
        """Hash, with a life: pool to how many workers it needs, in JSON; see `keep_scale.lua`."""
        return f"{self.prefix}scale"

    def scale_memory(self) -> str:
        """Hash: pool to what its next scaling decision is based on beside the work, in JSON."""
        return f"{self.prefix}scale:memory"

    def uploads(self) -> str:
        """Sorted set: uploads that no job has taken, scored by when they began (ms)."""
        return f"{self.prefix}uploads"

    def tenant_jobs(self, tenant: str) -> str:
        """Sorted set: the ids of a tenant's jobs, scored by when they were submitted (ms)."""
        return f"{self.prefix}tenant:{tenant}:jobs"

    def tenant_live_jobs(self, tenant: str) -> str:
        """Sorted set: the ids of a tenant's jobs that have not ended, scored by when they were submitted (ms)."""
        return f"{self.prefix}tenant:{tenant}:live"

    def pushed(self, tenant: str, name: str) -> str:
        """Stream: rows that were sent to a stream of a tenant and are not settled, see `push.lua`."""
        return f"{self.prefix}pushed:{{{tenant}|{name}}}"

    def pushed_state(self, tenant: str, name: str) -> str:
        """Hash: how many rows were ever sent to it, and the bytes that it holds."""
        return f"{self.pushed(tenant, name)}:state"

    def producers(self, tenant: str, name: str) -> str:
        """Hash: who sends rows to it, to the last number of theirs."""
        return f"{self.pushed(tenant, name)}:producers"

    def producers_used(self, tenant: str, name: str) -> str:
        """Sorted set: the same producers, scored by when they sent last (ms)."""
        return f"{self.pushed(tenant, name)}:producers:used"

    def push_call(self, tenant: str, name: str, call: str) -> str:
        """String: the offset of the rows that one call has added to it; kept for a minute."""
        return f"{self.pushed(tenant, name)}:call:{call}"

    def tenant_streams(self, tenant: str) -> str:
        """Hash: the streams to which rows of a tenant were sent, to the bytes that they hold."""
        return f"{self.prefix}tenant:{tenant}:streams"

    def pushed_streams(self) -> str:
        """Set: "tenant stream" of all of them."""
        return f"{self.prefix}pushed:streams"

    def tenant_uploads(self, tenant: str) -> str:
        """Hash: a tenant's open upload to the bytes of its parts."""
        return f"{self.prefix}tenant:{tenant}:uploads"

    def announcements(self) -> str:
        """Sorted set: what happened to jobs with webhooks and is to be sent, see `WebhookLedger`, by when (ms)."""
        return f"{self.prefix}announcements"

    def document(self, kind: str, document_id: str) -> str:
        """Hash: a document of a tenant; see `add_document.lua`."""
        return f"{self.prefix}{kind}:{{{document_id}}}"

    def tenant_documents(self, kind: str, tenant: str) -> str:
        """Sorted set: the ids of a tenant's documents of a kind, scored by when they were added (ms)."""
        return f"{self.prefix}tenant:{tenant}:{kind}"

    def due_documents(self, kind: str) -> str:
        """Sorted set: the ids of documents of a kind, scored by when the leader has something to do about them (ms)."""
        return f"{self.prefix}{kind}:due"

    def document_bytes(self, kind: str) -> str:
        """Hash: tenant to how many bytes its documents of a kind stand for."""
        return f"{self.prefix}{kind}:bytes"

    def events(self) -> str:
        """Channel: "kind job-id" of every change that somebody may wait for."""
        return f"{self.prefix}events"

    def job(self, job_id: str) -> str:
        """Hash: a job's spec, state and sums over its stages."""
        return f"{self.prefix}job:{{{job_id}}}"

    def inline_input(self, job_id: str) -> str:
        """String: the rows of a small job, an Arrow stream of at most 64 KiB."""
        return f"{self.job(job_id)}:input"

    def stage(self, job_id: str, stage: int) -> str:
        """Hash: a stage's cursor and counters."""
        return f"{self.job(job_id)}:stage:{stage}"

    def inline_results(self, job_id: str, stage: int) -> str:
        """Hash: shard to its results as an Arrow stream, at most 64 KiB in all stages of the job."""
        return f"{self.job(job_id)}:inline:{stage}"

    def live_shards(self, job_id: str, stage: int) -> str:
        """Set: the shards that are not settled."""
        return f"{self.job(job_id)}:live:{stage}"

    def ready(self, job_id: str, stage: int) -> str:
        """List: planned shards in input order."""
        return f"{self.job(job_id)}:ready:{stage}"

    def waiting(self, job_id: str, stage: int) -> str:
        """Sorted set: shards to be tried again, scored by when (ms)."""
        return f"{self.job(job_id)}:waiting:{stage}"

    def shard(self, job_id: str, stage: int, shard_id: ShardId) -> str:
        """Hash: one live shard."""
        return f"{self.job(job_id)}:shard:{stage}:{format_shard_id(shard_id)}"

    def done(self, job_id: str, stage: int) -> str:
        """Hash: settled shard to what its commit brought, see `commit.lua`."""
        return f"{self.job(job_id)}:done:{stage}"

    def borders(self, job_id: str, stage: int) -> str:
        """Hash: settled shard to where source rows begin among its results, where a later stage gathers them."""
        return f"{self.job(job_id)}:borders:{stage}"

    def incomplete(self, job_id: str) -> str:
        """Set: the source rows of a job of which a row has failed before the stage that gathers them."""
        return f"{self.job(job_id)}:incomplete"

    def readers(self, job_id: str) -> str:
        """Sorted set: the jobs that read results between the stages of a job, scored by since when (ms)."""
        return f"{self.job(job_id)}:readers"

    def turn(self, name: str) -> str:
        """String: who does at present what only one may do at a time; expires."""
        return f"{self.prefix}turn:{name}"

    def stream_files(self, job_id: str) -> str:
        """Hash: names of the files of a watched folder to their numbers, while the folder has them."""
        return f"{self.job(job_id)}:files"

    def dead_counts(self, job_id: str) -> str:
        """Hash: error type to how many rows of a job died of it."""
        return f"{self.job(job_id)}:dead"

    def job_log(self, job_id: str) -> str:
        """Stream: the last things that happened to a job, see `note.lua`."""
        return f"{self.job(job_id)}:log"

    def of_job(self, job_id: str, stages: int) -> list[str]:
        """All keys of a job with that many stages but its live shards'."""
        of_stage = (
            *(self.stage, self.inline_results, self.live_shards, self.ready),
            *(self.waiting, self.done, self.borders),
        )
        return [
            self.job(job_id),
            self.inline_input(job_id),
            self.dead_counts(job_id),
            self.incomplete(job_id),
            self.readers(job_id),
            self.stream_files(job_id),
            self.job_log(job_id),
            *(key(job_id, stage) for stage in range(stages) for key in of_stage),
        ]
