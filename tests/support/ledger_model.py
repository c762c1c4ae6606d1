"""A plain model of the ledger: what its scripts are to do, without Redis. Times are milliseconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from batchmill.jobs.cost import NANO, Parts, Spent
from batchmill.jobs.job import MAX_INLINE_BYTES
from batchmill.jobs.retry import LOSSES_BEFORE_SPLIT
from batchmill.jobs.shard import ShardId, ShardRef, format_shard_id
from batchmill.ledger.formats.encodings import write_settled
from support.ledger_model_jobs import DUE, LEASE_MS, START_MS, Job, Part, Piece, Stage

if TYPE_CHECKING:
    from batchmill.jobs.completion import Completion
    from batchmill.ledger import JobRecord
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.ledger.plan_step import PlanStep


class Model:
    """What the scripts are to do, said plainly. Methods answer as the ledger does."""

    def __init__(self) -> None:
        self.now = START_MS
        self.epoch = 0  # the latest leader's
        self.leader = ""  # its name, or nobody
        self.jobs: dict[str, Job] = {}
        self.seen_at = 0  # when a leader last looked at the leases
        self.drops = 0  # stragglers that were dropped
        self.costs: dict[str, Counter[str]] = {f"costs:{what}": Counter() for what in ("tenants", "pools", "days")}

    def leads(self, epoch: int) -> bool:
        return bool(self.leader) and epoch == self.epoch

    def stage(self, ref: ShardRef) -> Stage:
        return self.jobs[ref.job_id].stages[ref.stage]

    def running(self, ref: ShardRef) -> Piece | None:
        piece = self.stage(ref).live.get(ref.shard_id)
        return piece if piece and (piece.state, piece.token) == ("running", ref.token) else None

    def straggling(self, ref: ShardRef) -> Piece | None:
        """The shard whose straggler an attempt is."""
        piece = self.stage(ref).live.get(ref.shard_id)
        return piece if piece and piece.straggler == str(ref.token) else None

    def stragglers(self) -> dict[str, tuple[ShardRef, Piece]]:
        found = [
            (ShardRef(job.id, stage.number, shard_id, int(piece.straggler)), piece)
            for job in self.jobs.values()
            for stage in job.stages
            for shard_id, piece in stage.live.items()
            if piece.straggler
        ]
        return {ref.attempt_key: (ref, piece) for ref, piece in found}

    def leases(self) -> dict[str, int]:
        """When the lease of each attempt ends."""
        own = {member: piece.at for member, (_, piece) in self.attempts("running").items()}
        return own | {member: piece.straggler_at for member, (_, piece) in self.stragglers().items()}

    def drop_straggler(self, ref: ShardRef, piece: Piece) -> None:
        self.charge_lost(ref, replace(piece, metered=piece.straggler_metered, at=piece.straggler_at))
        piece.end_straggler()
        self.drops += 1

    def speculate(self, ref: ShardRef, epoch: int) -> str:
        job, piece = self.jobs[ref.job_id], self.running(ref)
        if not self.leads(epoch) or job.state != "running" or not piece or piece.straggler or piece.at <= self.now:
            return "nothing"
        piece.straggle()
        self.stage(ref).queue(ref.shard_id, self.now)
        self.stage(ref).shards_speculated += 1
        return "ok"

    def attempts(self, state: str) -> dict[str, tuple[ShardRef, Piece]]:
        found = [
            (ShardRef(job.id, stage.number, shard_id, stage.live[shard_id].token), stage.live[shard_id])
            for job in self.jobs.values()
            for stage, shard_id in job.names(state)
        ]
        return {ref.attempt_key: (ref, piece) for ref, piece in found}

    def charge(self, job: Job, stage: Stage, piece: Piece, used: Parts, rows: int = 0) -> None:
        """One attempt's bill goes into four sums, and may be the one that uses up the budget."""
        spent = Spent.of(used, int(piece.metered.split()[0]))
        bill = {"rows": rows, "attempts": 1}
        for unit, parts in (("us", spent.us), ("nano", spent.nano)):
            bill |= {f"{name}_{unit}": part for name, part in asdict(parts).items()}
        names = [job.id, f"default {stage.spec.operator}", str(self.now // 86_400_000)]
        for sums, name in zip([stage.costs, *self.costs.values()], ["cost", *names], strict=True):
            sums.update({f"{name} {what}": amount for what, amount in bill.items() if amount})
        job.cost_nano += spent.nano.total
        is_spent = 0 < job.budget_nano <= job.cost_nano
        if is_spent and job.state == "running" and not job.is_settled:
            job.state = "paused"

    def charge_lost(self, ref: ShardRef, piece: Piece) -> None:
        _, told, at, sharers = map(int, piece.metered.split())
        silent_ms = max(0, min(self.now, abs(piece.at)) - at)
        self.charge(self.jobs[ref.job_id], self.stage(ref), piece, Parts(retried=told + silent_ms * 1000 // sharers))

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

    def plan(self, record: JobRecord, number: int, step: PlanStep, epoch: int) -> str:
        job = self.jobs[record.id]
        stage = job.stages[number]
        if not self.leads(epoch):
            return "deposed"
        if job.state not in ("pending", "running"):
            return "over"
        if stage.planned or stage.cursor != record.stages[number].cursor:
            return "moved"
        job.state, job.started = "running", True
        stage.plan(step.shards, step.sizes, step.cursor, at_end=step.at_end)
        return "ok"

    def to_queue(self, job: Job, stage: Stage, limit: int) -> list[ShardId]:
        waiting = [shard_id for shard_id in stage.names("waiting") if stage.live[shard_id].at <= self.now]
        waiting.sort(key=lambda shard_id: (stage.live[shard_id].at, format_shard_id(shard_id)))
        planned = stage.names("planned")
        if not job.is_awaited(stage):  # only these are read: suspects may hide later retries
            waiting, planned = waiting[:limit], planned[:limit]
        suspects = [
            one
            for one in waiting[:limit]
            if planned and (len(one) > 1 or stage.live[one].losses >= LOSSES_BEFORE_SPLIT)
        ]
        last = [*suspects, *waiting[limit:]]
        return [*(one for one in waiting if one not in last), *planned, *last]

    def queue(self, job: Job, stage: Stage, shard_id: ShardId, epoch: int) -> str:
        piece = stage.live.get(shard_id)
        if not self.leads(epoch) or job.state != "running" or not piece or piece.state not in ("planned", "waiting"):
            return "nothing"
        stage.queue(shard_id, self.now)
        return "ok"

    def claim(self, ref: ShardRef, holder: str, price_nano: int, sharers: int) -> str:
        job = self.jobs[ref.job_id]
        piece = self.stage(ref).live.get(ref.shard_id)
        if not piece or piece.token != ref.token:
            return "stale"
        if piece.state != "queued" and (piece.state, piece.holder) != ("running", holder):
            return "stale"
        if job.state != "running":
            return "stopped"
        if piece.state == "queued" and piece.straggler and worker(piece.straggler_holder) == worker(holder):
            piece.wait(self.now + min(500 * 2 ** (ref.token - int(piece.straggler) - 1), 8000))
            self.drops += 1
            return "stale"
        if piece.state == "queued":
            piece.metered = f"{price_nano} 0 {self.now} {sharers}"
        piece.state, piece.holder, piece.at = "running", holder, self.now + LEASE_MS
        return "ok"

    def renew(self, ref: ShardRef, used_us: int, sharers: int) -> str:
        piece, slow = self.running(ref), self.straggling(ref)
        if piece:
            piece.at = self.now + LEASE_MS
            piece.metered = f"{piece.metered.split()[0]} {used_us} {self.now} {sharers}"
        elif slow:
            slow.straggler_at = self.now + LEASE_MS
            slow.straggler_metered = f"{slow.straggler_metered.split()[0]} {used_us} {self.now} {sharers}"
        else:
            return "lost"
        state = self.jobs[ref.job_id].state
        return {"running": "ok", "paused": "paused"}.get(state, "stopped")

    def take(self, ref: ShardRef, epoch: int) -> str:
        """What `expire_attempt` and `split` have in common."""
        piece = self.running(ref)
        if not self.leads(epoch):
            return "deposed"
        slow = self.straggling(ref)
        if slow and slow.straggler_at > self.now:
            return "alive"
        if slow:
            self.drop_straggler(ref, slow)
            return "dropped"
        if not piece:
            return "stale"
        if piece.at > self.now:
            return "alive"
        self.charge_lost(ref, piece)
        return "ok"

    def expire_attempt(self, ref: ShardRef, epoch: int, delay_ms: int) -> str:
        word = self.take(ref, epoch)
        if word == "ok":
            self.stage(ref).live[ref.shard_id].wait(self.now + delay_ms, "losses")
        return word

    def split(self, ref: ShardRef, epoch: int) -> str:
        word = self.take(ref, epoch)
        if word == "ok":
            stage = self.stage(ref)
            whole = stage.live[ref.shard_id]
            if whole.straggler:
                self.drop_straggler(replace(ref, token=int(whole.straggler)), whole)
            del stage.live[ref.shard_id]
            stage.settled[ref.shard_id] = "split 2"
            middle = whole.rows // 2
            for half, start, stop in ((0, 0, middle), (1, middle, whole.rows)):
                piece = Piece(whole.first_row + start, stop - start, whole.skip + start, "waiting", at=self.now)
                piece.losses, piece.checkpoint, piece.token = whole.losses, whole.checkpoint, whole.token
                stage.live[ShardId((*ref.shard_id, half))] = piece
        return word

    def extend_all_leases(self, epoch: int) -> int:
        leases = self.leases()
        if not self.leads(epoch) or not leases:
            return 0
        seen_at, self.seen_at = self.seen_at, self.now
        if self.now - seen_at <= LEASE_MS * 2 // 3:
            return 0
        for piece in [piece for _, piece in self.attempts("running").values()]:
            piece.at = self.extended(piece.at)
        for _, piece in self.stragglers().values():
            piece.straggler_at = self.extended(piece.straggler_at)
        return sum(0 < at <= self.now for at in leases.values())

    def extended(self, at: int) -> int:
        """When a lease ends that ended then, unless a supervisor has ended it."""
        return max(at, self.now + LEASE_MS) if at > 0 else at

    def keep_leases(self, worker: str) -> int:
        held = [piece for _, piece in self.attempts("running").values() if piece.holder.startswith(f"{worker} ")]
        slow = [piece for _, piece in self.stragglers().values() if piece.straggler_holder.startswith(f"{worker} ")]
        kept = sum(piece.at > 0 for piece in held) + sum(piece.straggler_at > 0 for piece in slow)
        for piece in held:
            piece.at = self.extended(piece.at)
        for piece in slow:
            piece.straggler_at = self.extended(piece.straggler_at)
        return kept

    def release_leases_of_worker(self, worker: str, blamed: set[str] | None) -> int:
        held = 0
        for member in sorted(self.leases()):
            ref, piece = (self.attempts("running") | self.stragglers())[member]
            slow = piece.straggler == str(ref.token)
            if (piece.straggler_holder if slow else piece.holder).startswith(f"{worker} "):
                held += 1
                if blamed is None or member in blamed:
                    piece.at, piece.straggler_at = (piece.at, -self.now) if slow else (-self.now, piece.straggler_at)
                elif slow:
                    self.drop_straggler(ref, piece)
                else:
                    self.charge_lost(ref, piece)
                    piece.wait(self.now)
        return held

    def end_attempt(
        self, ref: ShardRef, delay_ms: int, checkpoint: str, used: Parts, *, blame: bool, stops: bool
    ) -> str:
        piece, slow = self.running(ref), self.straggling(ref)
        if slow:
            wasted = Parts(retried=used.total)
            self.charge(self.jobs[ref.job_id], self.stage(ref), replace(slow, metered=slow.straggler_metered), wasted)
            slow.end_straggler()
            self.drops += 1
        if not piece:
            return "stale"
        self.charge(self.jobs[ref.job_id], self.stage(ref), piece, used)
        piece.wait(self.now + delay_ms, "failures" if blame else "")
        piece.checkpoint = checkpoint or piece.checkpoint
        self.jobs[ref.job_id].ends_at_commit &= not checkpoint
        if stops:
            self.jobs[ref.job_id].stop("failing")
        return "ok"

    def commit(self, ref: ShardRef, completion: Completion, used: Parts) -> str:
        job, stage, slow = self.jobs[ref.job_id], self.stage(ref), self.straggling(ref)
        piece = slow or self.running(ref)
        rest, rows = completion.rest, completion.rows + completion.rows_dead
        made = rest.part_id if rest else ref.shard_id
        if job.state and made in stage.settled:
            return "again" if stage.settled[made].split()[0] == str(ref.token) else "stale"
        if not piece:
            return "stale"
        if job.inline_bytes + len(completion.inline) > MAX_INLINE_BYTES:
            return "no room"
        job.inline_bytes += len(completion.inline)
        brought = f"{ref.token} {completion.rows} {completion.rows_dead} {completion.nbytes}"
        expanded = "" if completion.results is None else f" {completion.results}"
        stage.settled[made] = f"{brought} {piece.first_row}{expanded}"
        results = completion.rows if completion.results is None else completion.results
        inline = len(completion.inline)
        stage.parts[made] = Part(piece.first_row, rows, results, completion.nbytes, inline)
        stage.rows_done += completion.rows
        stage.rows_dead += completion.rows_dead
        stage.rows_filtered += completion.rows_filtered
        stage.prompt_tokens += completion.tokens.prompt
        stage.cached_tokens += completion.tokens.cached
        stage.generated_tokens += completion.tokens.generated
        job.dead.update(dict(completion.dead_by_type))
        del stage.live[ref.shard_id]
        if rest:
            stage.settled[rest.split_id] = f"split {rest.parts}"
            left = Piece(
                piece.first_row + rows, piece.rows - rows, piece.skip + rows, "waiting", piece.token, at=self.now
            )
            stage.live[rest.shard.shard_id] = left
            job.ends_at_commit = False
        most = stage.spec.retry.max_dead
        if most is not None and completion.rows_dead:
            job.roots_dead += completion.rows_dead
            if job.roots_dead > most:
                job.stop("failing")
        winner = replace(piece, metered=piece.straggler_metered) if slow else piece
        self.charge(job, stage, winner, used, rows)
        if slow and piece.state == "running":
            self.charge_lost(ref, piece)
        elif piece.straggler and not slow:
            self.charge_lost(ref, replace(piece, metered=piece.straggler_metered, at=piece.straggler_at))
        if job.ends_at_commit and job.state == "running" and not stage.live:
            job.state, stage.cursor, job.ended_at = "completed", "", self.now
        return "ok"

    def free(self, job: Job, stage: Stage) -> None:
        """What the next stage has settled from its beginning on says which parts of a stage nobody reads any more."""
        following = job.stages[stage.number + 1]
        behind = following.prefix()
        rows_read = sum(part.rows for _, parts in behind for part in parts)
        parts, rows, shard, count = list[tuple[ShardId, Part]](), 0, 0, 0
        for number, key, part in stage.ready():
            if number > shard:
                shard, count = number, 0
            if key is not None and part is not None:
                if rows + part.results > rows_read:
                    break
                rows, count = rows + part.results, count + 1
                parts += [(key, part)] if part.results else []
        stage.bytes_freed = sum(part.nbytes for _, part in parts)
        for key, part in parts:
            job.inline_bytes -= part.inline
            stage.parts[key] = replace(part, inline=0)
        stage.freed, stage.freed_at = f"{shard} {rows} {len(behind)} {rows_read} {count}", len(following.parts)

    def adopt(self, job: Job, record: StageRecord, replay_id: str, adopted: Settled, dead: int, epoch: int) -> str:
        stage = job.stages[record.number]
        if not self.leads(epoch):
            return "deposed"
        if replay_id in stage.adopted:
            return "known"
        if stage.shards_planned != record.shards_planned:
            return "moved"
        stage.adopted.add(replay_id)
        stage.settled[adopted.shard_id] = write_settled(adopted)
        rows = adopted.rows + adopted.rows_dead
        stage.parts[adopted.shard_id] = Part(stage.rows_planned, rows, adopted.results, adopted.nbytes, is_adopted=True)
        stage.shards_planned += 1
        stage.rows_planned += rows
        stage.rows_done += adopted.rows
        stage.rows_dead += dead
        job.dead.update({"ValueError": dead} if dead else {})
        return "ok"

    def unqueue_paused(self, job: Job, stage: Stage, epoch: int, seen: list[ShardRef]) -> int:
        if not self.leads(epoch) or job.state != "paused":
            return 0
        tokens = {ref.shard_id: ref.token for ref in seen}
        found = [shard_id for shard_id in stage.names("queued") if tokens.get(shard_id) == stage.live[shard_id].token]
        for shard_id in found:
            stage.live[shard_id].wait(self.now)
        return len(found)

    def finish(self, job: Job, state: str, epoch: int) -> str:
        open_work = (
            not job.is_settled
            if state == "completed"
            else any(ref.job_id == job.id for ref, _ in (self.attempts("running") | self.stragglers()).values())
        )
        if not self.leads(epoch) or DUE.get(job.state) != state or open_work:
            return "busy"
        for stage in job.stages:
            stage.left, stage.cursor = len(stage.live), ""
            stage.live.clear()
        job.state, job.ended_at = state, self.now
        job.is_between = state == "completed" and len(job.stages) > 1
        return "ok"

    def written(self) -> dict[str, object]:
        """What must lie in Redis, by key without the prefix."""
        ended = {job.id: job.ended_at for job in self.jobs.values() if job.ended_at}
        keys: dict[str, object] = {
            "leases": self.leases(),
            "queued:default": {member: piece.at for member, (_, piece) in self.attempts("queued").items()},
            "jobs:live": {job.id for job in self.jobs.values() if not job.ended_at and job.state},
            "leases:seen": str(self.seen_at) if self.seen_at else "",
            "jobs:ended": {job_id: at for job_id, at in ended.items() if self.jobs[job_id].state},
            "jobs:between": {job_id: at for job_id, at in ended.items() if self.jobs[job_id].is_between},
        }
        keys |= {key: {name: str(amount) for name, amount in sums.items()} for key, sums in self.costs.items()}
        for job in self.jobs.values():
            if job.state:
                keys |= self._of_job(job)
        return {key: value for key, value in keys.items() if value}

    def _of_job(self, job: Job) -> dict[str, object]:
        own = f"job:{{{job.id}}}"
        keys: dict[str, object] = {
            own: job.fields(),
            f"{own}:dead": {kind: str(rows) for kind, rows in job.dead.items() if rows},
            f"tenant:{job.id}:jobs": {job.id},
            f"tenant:{job.id}:live": set() if job.ended_at else {job.id},
        }
        for stage in job.stages:
            keys |= self._of_stage(own, stage)
        return keys

    def _of_stage(self, job: str, stage: Stage) -> dict[str, object]:
        number, live = stage.number, stage.live
        waiting = {format_shard_id(shard_id): live[shard_id].at for shard_id in stage.names("waiting")}
        return {
            f"{job}:stage:{number}": stage.fields(),
            f"{job}:ready:{number}": [format_shard_id(shard_id) for shard_id in stage.names("planned")],
            f"{job}:waiting:{number}": waiting,
            f"{job}:live:{number}": {format_shard_id(shard_id) for shard_id in live},
            f"{job}:done:{number}": {format_shard_id(shard_id): text for shard_id, text in stage.settled.items()},
            **{f"{job}:shard:{number}:{format_shard_id(key)}": piece.fields() for key, piece in live.items()},
        }


def worker(holder: str) -> str:
    """The worker of a holder, "worker claim"."""
    return holder.rpartition(" ")[0]
