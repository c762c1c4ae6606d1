"""A plain model of the ledger: what its scripts are to do, without Redis. Times are milliseconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from batchmill.jobs.cost import NANO, PARTS, Parts, Spent
from batchmill.jobs.job import MAX_INLINE_BYTES
from batchmill.jobs.retry import LOSSES_BEFORE_SPLIT
from batchmill.jobs.shard import ShardId, ShardRef, format_shard_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.completion import Completion
    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.shard import Shard
    from batchmill.ledger import JobRecord
    from batchmill.ledger.shards import PlanStep

LEASE_MS = 10_000
START_MS = 1_000_000_000_000
DUE = {
    "running": "completed",
    "paused": "completed",
    "cancelling": "cancelled",
    "failing": "failed",
    "expiring": "expired",
}
"""The final state that each state of a job leads to."""

COST_FIELDS = ["rows", "attempts", *(f"{part}_{unit}" for part in PARTS for unit in ("us", "nano"))]
JOB_FIELDS = ["cost_nano", "budget_nano", "state", "inline_bytes", "stages_open"]
"""The fields of a job's hash that the model answers for."""

STAGE_FIELDS = [
    *(f"cost {name}" for name in COST_FIELDS),
    "cursor",
    "planned",
    "rows_planned",
    "rows_done",
    "rows_dead",
    "shards_planned",
    "shards_live",
    "shards_queued",
    "shards_running",
    "shards_done",
]
"""The same of the hash of its stage."""


@dataclass
class Piece:
    """A live shard in the model. at: when it was queued, when its lease ends, or when its retry is due (ms)."""

    first_row: int
    rows: int
    skip: int = 0
    state: str = "planned"
    token: int = 0
    failures: int = 0
    losses: int = 0
    holder: str = ""
    checkpoint: str = ""
    metered: str = ""  # "price used at sharers"
    at: int = 0

    def wait(self, until: int, blame: str = "") -> None:
        self.state, self.holder, self.metered, self.at = "waiting", "", "", until
        if blame:
            setattr(self, blame, getattr(self, blame) + 1)

    def fields(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items() if name != "at"}


@dataclass
class Job:
    """A job in the model; its state is "" once it is deleted."""

    id: str
    spec: JobSpec
    state: str = "pending"
    started: bool = False
    cursor: str = ""
    planned: bool = False
    ends_at_commit: bool = False
    live: dict[ShardId, Piece] = field(default_factory=dict)  # planned ones in input order
    left: int = 0  # shards that were live when it ended
    settled: dict[ShardId, str] = field(default_factory=dict)
    tiles: list[tuple[int, int]] = field(default_factory=list)  # first row and rows of each committed shard
    shards_planned: int = 0
    rows_planned: int = 0
    rows_done: int = 0
    rows_dead: int = 0
    inline_bytes: int = 0
    ended_at: int = 0
    budget_nano: int = 0  # 0: none
    cost_nano: int = 0
    costs: Counter[str] = field(default_factory=Counter)

    def stop(self, state: str) -> bool:
        changes = self.state in ("pending", "running", "paused")
        self.state = state if changes else self.state
        return changes

    def plan(self, shards: Sequence[Shard], cursor: str, *, at_end: bool) -> None:
        self.state, self.started, self.cursor, self.planned = "running", True, cursor, at_end
        for shard in shards:
            self.live[shard.shard_id] = Piece(shard.first_row, shard.rows)
            self.rows_planned += shard.rows
            self.shards_planned += 1

    def queue(self, shard_id: ShardId, now: int) -> None:
        piece = self.live[shard_id]
        piece.state, piece.token, piece.at = "queued", piece.token + 1, now

    def names(self, state: str) -> list[ShardId]:
        return [shard_id for shard_id, piece in self.live.items() if piece.state == state]

    def fields(self) -> dict[str, str]:
        """What the job's hash must hold."""
        is_settled = self.planned and not (self.live or self.left)
        own = {name: getattr(self, name) for name in JOB_FIELDS if hasattr(self, name)}
        own["stages_open"] = int(not is_settled)
        return {name: str(own[name] or 0) for name in JOB_FIELDS}

    def stage_fields(self) -> dict[str, str]:
        """What the hash of its stage must hold: every counter counted anew."""
        counted = {f"shards_{state}": len(self.names(state)) for state in ("queued", "running")}
        own: dict[str, Any] = {name: getattr(self, name) for name in STAGE_FIELDS if hasattr(self, name)}
        own |= {f"cost {name}": self.costs[f"cost {name}"] for name in COST_FIELDS}
        own |= counted | {"planned": int(self.planned), "shards_live": len(self.live) + self.left}
        return {name: str(own.get(name, len(self.tiles)) or 0) for name in STAGE_FIELDS}


class Model:
    """What the scripts are to do, said plainly. Methods answer as the ledger does."""

    def __init__(self) -> None:
        self.now = START_MS
        self.epoch = 0  # the latest leader's
        self.leader = ""  # its name, or nobody
        self.jobs: dict[str, Job] = {}
        self.seen_at = 0  # when a leader last looked at the leases
        self.costs: dict[str, Counter[str]] = {f"costs:{what}": Counter() for what in ("tenants", "pools", "days")}

    def leads(self, epoch: int) -> bool:
        return bool(self.leader) and epoch == self.epoch

    def running(self, ref: ShardRef) -> Piece | None:
        piece = self.jobs[ref.job_id].live.get(ref.shard_id)
        return piece if piece and (piece.state, piece.token) == ("running", ref.token) else None

    def attempts(self, state: str) -> dict[str, tuple[ShardRef, Piece]]:
        found = [
            (ShardRef(job.id, 0, shard_id, job.live[shard_id].token), job.live[shard_id])
            for job in self.jobs.values()
            for shard_id in job.names(state)
        ]
        return {ref.attempt_key: (ref, piece) for ref, piece in found}

    def charge(self, job: Job, piece: Piece, used: Parts, rows: int = 0) -> None:
        """One attempt's bill goes into four sums, and may be the one that uses up the budget."""
        spent = Spent.of(used, int(piece.metered.split()[0]))
        bill = {"rows": rows, "attempts": 1}
        for unit, parts in (("us", spent.us), ("nano", spent.nano)):
            bill |= {f"{name}_{unit}": part for name, part in asdict(parts).items()}
        names = [job.id, f"default {job.spec.first.operator}", str(self.now // 86_400_000)]
        for sums, name in zip([job.costs, *self.costs.values()], ["cost", *names], strict=True):
            sums.update({f"{name} {what}": amount for what, amount in bill.items() if amount})
        job.cost_nano += spent.nano.total
        is_spent = 0 < job.budget_nano <= job.cost_nano
        if is_spent and job.state == "running" and (job.live or not job.planned):
            job.state = "paused"

    def charge_lost(self, ref: ShardRef, piece: Piece) -> None:
        _, told, at, sharers = map(int, piece.metered.split())
        silent_ms = max(0, min(self.now, abs(piece.at)) - at)
        self.charge(self.jobs[ref.job_id], piece, Parts(retried=told + silent_ms * 1000 // sharers))

    def steer(self, job: Job, how: str, budget: float | None = None) -> str:
        if job.state not in ("pending", "running", "paused"):
            return "refused"
        budget_nano = job.budget_nano if budget is None else round(budget * NANO)
        is_spent = 0 < budget_nano <= job.cost_nano
        if how == "resume" and is_spent and (budget is not None or job.state == "paused"):
            return "refused"
        job.budget_nano = budget_nano if how == "resume" else job.budget_nano
        if how == "resume" and job.state != "paused":
            return "ok"
        job.state = "paused" if how == "pause" else "running" if job.started else "pending"
        return "ok"

    def plan(self, record: JobRecord, step: PlanStep, epoch: int) -> str:
        job = self.jobs[record.id]
        if not self.leads(epoch):
            return "deposed"
        if job.state not in ("pending", "running"):
            return "over"
        if job.planned or job.cursor != record.first.cursor:
            return "moved"
        job.plan(step.shards, step.cursor, at_end=step.at_end)
        return "ok"

    def to_queue(self, job: Job, limit: int) -> list[ShardId]:
        waiting = [shard_id for shard_id in job.names("waiting") if job.live[shard_id].at <= self.now]
        waiting.sort(key=lambda shard_id: (job.live[shard_id].at, format_shard_id(shard_id)))
        waiting = waiting[:limit]  # only these are read, so suspects may keep later retries from being seen
        planned = job.names("planned")[:limit]
        suspects = [one for one in waiting if planned and (len(one) > 1 or job.live[one].losses >= LOSSES_BEFORE_SPLIT)]
        return [*(one for one in waiting if one not in suspects), *planned, *suspects]

    def queue(self, job: Job, shard_id: ShardId, epoch: int) -> str:
        piece = job.live.get(shard_id)
        if not self.leads(epoch) or job.state != "running" or not piece or piece.state not in ("planned", "waiting"):
            return "nothing"
        job.queue(shard_id, self.now)
        return "ok"

    def claim(self, ref: ShardRef, holder: str, price_nano: int, sharers: int) -> str:
        job = self.jobs[ref.job_id]
        piece = job.live.get(ref.shard_id)
        if not piece or piece.token != ref.token:
            return "stale"
        if piece.state != "queued" and (piece.state, piece.holder) != ("running", holder):
            return "stale"
        if job.state != "running":
            return "stopped"
        if piece.state == "queued":
            piece.metered = f"{price_nano} 0 {self.now} {sharers}"
        piece.state, piece.holder, piece.at = "running", holder, self.now + LEASE_MS
        return "ok"

    def renew(self, ref: ShardRef, used_us: int, sharers: int) -> str:
        piece = self.running(ref)
        if not piece:
            return "lost"
        piece.at = self.now + LEASE_MS
        piece.metered = f"{piece.metered.split()[0]} {used_us} {self.now} {sharers}"
        state = self.jobs[ref.job_id].state
        return {"running": "ok", "paused": "paused"}.get(state, "stopped")

    def take(self, ref: ShardRef, epoch: int) -> str:
        """What `expire_attempt` and `split` have in common."""
        piece = self.running(ref)
        if not self.leads(epoch):
            return "deposed"
        if not piece:
            return "stale"
        if piece.at > self.now:
            return "alive"
        self.charge_lost(ref, piece)
        return "ok"

    def expire_attempt(self, ref: ShardRef, epoch: int, delay_ms: int) -> str:
        word = self.take(ref, epoch)
        if word == "ok":
            self.jobs[ref.job_id].live[ref.shard_id].wait(self.now + delay_ms, "losses")
        return word

    def split(self, ref: ShardRef, epoch: int) -> str:
        word = self.take(ref, epoch)
        if word == "ok":
            job = self.jobs[ref.job_id]
            whole = job.live.pop(ref.shard_id)
            job.settled[ref.shard_id] = "split 2"
            middle = whole.rows // 2
            for half, start, stop in ((0, 0, middle), (1, middle, whole.rows)):
                piece = Piece(whole.first_row + start, stop - start, whole.skip + start, "waiting", at=self.now)
                piece.losses, piece.checkpoint = whole.losses, whole.checkpoint
                job.live[ShardId((*ref.shard_id, half))] = piece
        return word

    def extend_all_leases(self, epoch: int) -> int:
        running = [piece for _, piece in self.attempts("running").values()]
        if not self.leads(epoch) or not running:
            return 0
        seen_at, self.seen_at = self.seen_at, self.now
        if self.now - seen_at <= LEASE_MS * 2 // 3:
            return 0
        spared = [piece for piece in running if 0 < piece.at <= self.now]
        for piece in running:
            piece.at = max(piece.at, self.now + LEASE_MS) if piece.at > 0 else piece.at
        return len(spared)

    def keep_leases(self, worker: str) -> int:
        held = [piece for _, piece in self.attempts("running").values() if piece.holder.startswith(f"{worker} ")]
        alive = [piece for piece in held if piece.at > 0]
        for piece in alive:
            piece.at = max(piece.at, self.now + LEASE_MS)
        return len(alive)

    def release_leases_of_worker(self, worker: str, blamed: set[str] | None) -> int:
        held = 0
        for member, (ref, piece) in self.attempts("running").items():
            if piece.holder.startswith(f"{worker} "):
                held += 1
                if blamed is None or member in blamed:
                    piece.at = -self.now
                else:
                    self.charge_lost(ref, piece)
                    piece.wait(self.now)
        return held

    def end_attempt(
        self, ref: ShardRef, delay_ms: int, checkpoint: str, used: Parts, *, blame: bool, stops: bool
    ) -> str:
        piece = self.running(ref)
        if not piece:
            return "stale"
        self.charge(self.jobs[ref.job_id], piece, used)
        piece.wait(self.now + delay_ms, "failures" if blame else "")
        piece.checkpoint = checkpoint or piece.checkpoint
        self.jobs[ref.job_id].ends_at_commit &= not checkpoint
        if stops:
            self.jobs[ref.job_id].stop("failing")
        return "ok"

    def commit(self, ref: ShardRef, completion: Completion, used: Parts) -> str:
        job, piece = self.jobs[ref.job_id], self.running(ref)
        if job.state and ref.shard_id in job.settled:
            return "again" if job.settled[ref.shard_id].split()[0] == str(ref.token) else "stale"
        if not piece:
            return "stale"
        if job.inline_bytes + len(completion.inline) > MAX_INLINE_BYTES:
            return "no room"
        job.inline_bytes += len(completion.inline)
        brought = f"{ref.token} {completion.rows} {completion.rows_dead} {completion.nbytes}"
        job.settled[ref.shard_id] = f"{brought} {piece.first_row}"
        job.tiles.append((piece.first_row, piece.rows))
        job.rows_done += completion.rows
        job.rows_dead += completion.rows_dead
        del job.live[ref.shard_id]
        most = job.spec.first.retry.max_dead
        if most is not None and completion.rows_dead and job.rows_dead > most:
            job.stop("failing")
        self.charge(job, piece, used, piece.rows)
        if job.ends_at_commit and job.state == "running" and not job.live:
            job.state, job.cursor, job.ended_at = "completed", "", self.now
        return "ok"

    def unqueue_paused(self, job: Job, epoch: int, seen: list[ShardRef]) -> int:
        if not self.leads(epoch) or job.state != "paused":
            return 0
        tokens = {ref.shard_id: ref.token for ref in seen}
        found = [shard_id for shard_id in job.names("queued") if tokens.get(shard_id) == job.live[shard_id].token]
        for shard_id in found:
            job.live[shard_id].wait(self.now)
        return len(found)

    def finish(self, job: Job, state: str, epoch: int) -> str:
        open_work = bool(job.live) or not job.planned if state == "completed" else bool(job.names("running"))
        if not self.leads(epoch) or DUE.get(job.state) != state or open_work:
            return "busy"
        job.left = len(job.live)
        job.live.clear()
        job.state, job.cursor, job.ended_at = state, "", self.now
        return "ok"

    def written(self) -> dict[str, object]:
        """What must lie in Redis, by key without the prefix."""
        ended = {job.id: job.ended_at for job in self.jobs.values() if job.ended_at}
        keys: dict[str, object] = {
            "leases": {member: piece.at for member, (_, piece) in self.attempts("running").items()},
            "queued:default": {member: piece.at for member, (_, piece) in self.attempts("queued").items()},
            "jobs:live": {job.id for job in self.jobs.values() if not job.ended_at and job.state},
            "leases:seen": str(self.seen_at) if self.seen_at else "",
            "jobs:ended": {job_id: at for job_id, at in ended.items() if self.jobs[job_id].state},
        }
        keys |= {key: {name: str(amount) for name, amount in sums.items()} for key, sums in self.costs.items()}
        for job in self.jobs.values():
            if job.state:
                keys |= self._of_job(job)
        return {key: value for key, value in keys.items() if value}

    def _of_job(self, job: Job) -> dict[str, object]:
        own = f"job:{{{job.id}}}"
        return {
            own: job.fields(),
            f"{own}:stage:0": job.stage_fields(),
            f"{own}:ready:0": [format_shard_id(shard_id) for shard_id in job.names("planned")],
            f"{own}:waiting:0": {format_shard_id(shard_id): job.live[shard_id].at for shard_id in job.names("waiting")},
            f"{own}:live:0": {format_shard_id(shard_id) for shard_id in job.live},
            f"{own}:done:0": {format_shard_id(shard_id): text for shard_id, text in job.settled.items()},
            f"{own}:dead": {"ValueError": str(job.rows_dead)} if job.rows_dead else {},
            f"tenant:{job.id}:jobs": {job.id},
            f"tenant:{job.id}:live": set() if job.ended_at else {job.id},
            **{f"{own}:shard:0:{format_shard_id(key)}": piece.fields() for key, piece in job.live.items()},
        }
