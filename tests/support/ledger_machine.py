"""The ledger's scripts on a real Valkey beside a plain model of them, through crashes, stale tokens and clock jumps.

Hypothesis draws the steps. An attempt that crashes is one that no later step goes on with, or one much later, under
its stale token. After every step, all that the scripts have written must be what the model says.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from batchmill.jobs.cost import NANO
from batchmill.jobs.job import JobError, JobForm, JobState, RetryPolicy, StageForm
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger.formats.encodings import parse_stage_key
from batchmill.ledger.scripting.connection import connect
from batchmill.ledger.submission import FirstPlace, OneShardPlan, Submission
from batchmill.ledger.views.index import Window
from support.index_truth import index_of
from support.ledger_chain_rules import ChainRules, rarely, some
from support.ledger_lockstep import answer, comparable, said
from support.ledger_model_jobs import DUE, LEASE_MS, Job
from support.ledger_steps import to_queue

GRACE_MS = 2_000
LEAD_S = 3600.0  # by the server's clock: the lead changes hands only where a step says so
ERROR = JobError(code="operator_failed", message="broken")

how_many_stages = st.sampled_from([1, 1, 2, 3])
delays_ms = st.sampled_from([0, 0, 500, 40_000])


def stages_of(members: dict[str, int]) -> dict[tuple[str, int], int]:
    """The entries of an index by job and stage."""
    return {parse_stage_key(member.encode()): score for member, score in members.items()}


class LedgerMachine(ChainRules):
    """Takes the same steps with the ledger and with the model."""

    @initialize(
        attempts=st.integers(1, 3),
        budget=st.sampled_from([None, 0.01, 0.05]),
        sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
        stages=how_many_stages,
    )
    def begin(self, attempts: int, budget: float | None, sizes: list[int], stages: int) -> None:
        self.change_leader(gap=False)
        self.submit(attempts, None, budget, again="", rows=0, stages=stages)
        self.plan(0, 0, sizes, at_end=False, stale=False, deposed=False)
        self.work(0, len(sizes), "w1")

    @rule(
        attempts=st.integers(1, 3),
        max_dead=st.sampled_from([None, None, 1.0]),
        budget=st.sampled_from([None, 0.01, 0.1]),
        again=st.sampled_from(["", "", "", "same id", "same key"]),
        rows=st.integers(0, 5),
        stages=how_many_stages,
        below=st.sampled_from([0, 1, 9]),
        lost=rarely,
    )
    def submit(
        self,
        attempts: int,
        max_dead: float | None,
        budget: float | None,
        *,
        again: str,
        rows: int,
        stages: int,
        below: int = 0,
        lost: bool = False,
    ) -> None:
        """rows: of a job that is planned at once; 0: the planner plans it. below: see `FirstPlace`; 0: it has none."""
        number = 0 if again else len(self.model.jobs)
        retry = RetryPolicy(max_attempts=attempts, backoff_s=0, max_dead=max_dead)
        forms = [StageForm(operator="echo", name=f"stage {one}", retry=retry) for one in range(stages)]
        spec = JobForm(stages=forms, budget=budget).spec()
        job_id = f"job-{number}"
        asked_as = "job-other" if again == "same key" else job_id
        piece = Shard(asked_as, 0, ShardId((0,)), 0, rows, (Slice(0, 0, rows, rows),))
        plan = OneShardPlan(piece, 10, f"from {rows}") if rows else None
        submission = Submission(
            asked_as, spec, "digest", f"key-{number}", b"rows", rows or None, tenant=job_id, plan=plan
        )
        if below:
            submission = replace(submission, place=FirstPlace("queue", below))
        if again and self.model.jobs["job-0"].state:
            word = "known" if again == "same key" else "ok"
            ask = partial(self.ledger.jobs.submit, submission, max_live_jobs=9)
            self.check(word, lambda: said(ask()[1], "known"), changes=False)
        elif not again and number < 2:
            has_place = self.has_place(submission)
            accepted = self.ledger.jobs.submit(submission, max_live_jobs=9)
            assert accepted[:2] == (submission.job_id, True)
            job = Job(submission.job_id, spec, budget_nano=round((budget or 0) * NANO))
            self.model.jobs[submission.job_id] = job
            if plan:
                job.state, job.started = "running", True
                job.first.plan([piece], [plan.nbytes], plan.cursor, at_end=True)
                job.ends_at_commit = stages == 1
            assert (accepted.queued is not None) == has_place
            if accepted.queued:
                job.first.queue(piece.shard_id, self.model.now)
                self.published.append(accepted.queued.ref)
                self.messages += [] if lost else [accepted.queued.ref]
            self.records[submission.job_id] = [self.ledger.jobs.read(submission.job_id)]

    def has_place(self, submission: Submission) -> bool:
        """Whether its only shard is to be queued with the job: nothing of the pool waits, and a worker is free."""
        if submission.plan is None or submission.place is None:
            return False
        found, _ = index_of(self.dump(), self.prefix, self.model.now)
        waits = any(key.endswith("ready|default") for key in found)
        in_flight = len(self.model.attempts("queued")) + len(self.model.attempts("running"))
        return not waits and in_flight < submission.place.below

    @rule(
        which=some,
        how=st.sampled_from(["pause", "resume", "resume", "resume"]),
        budget=st.sampled_from([None, None, 0.02, 0.1, 0.5]),
    )
    def steer(self, which: int, how: str, budget: float | None = None) -> None:
        job, jobs = self.job(which), self.ledger.jobs
        steer = partial(jobs.pause, job.id) if how == "pause" else partial(jobs.resume, job.id, budget)
        self.check(self.model.steer(job, how, budget), lambda: answer(steer))

    @rule(which=some, state=st.sampled_from([JobState.CANCELLING, JobState.EXPIRING]), really=rarely)
    def stop(self, which: int, state: Literal[JobState.CANCELLING, JobState.EXPIRING], *, really: bool) -> None:
        job = self.job(which)
        if really and job.state:
            changes = job.stop(state)
            self.check("ok", lambda: answer(lambda: self.ledger.jobs.stop(job.id, state, None)), changes=changes)

    @rule(which=some)
    def delete(self, which: int) -> None:
        job = self.job(which)
        if job.state:
            word = "ok" if job.ended_at else "refused"
            self.check(word, lambda: answer(lambda: self.ledger.retention.mark_for_deletion(job.id)))
            self.check(word, lambda: said(self.ledger.retention.forget(job.id), "refused"))
            job.state, job.is_between = ("", False) if job.ended_at else (job.state, job.is_between)

    @rule(gap=rarely)
    def change_leader(self, *, gap: bool) -> None:
        if self.model.leader:
            assert self.ledger.lead("rival", LEAD_S) == 0
            self.ledger.resign(self.model.leader)
        self.model.leader = "" if gap else f"leader-{next(self.serial)}"
        if not gap:
            self.model.epoch += 1
            assert self.ledger.lead(self.model.leader, LEAD_S) == self.model.epoch

    @rule(which=some, number=some, limit=st.integers(1, 4), lost=rarely, deposed=rarely)
    def dispatch(self, which: int, number: int, limit: int, *, lost: bool, deposed: bool) -> None:
        job = self.job(which)
        stage = self.stage(job, number)
        names = to_queue(self.ledger, job.id, limit, self.model.now, stage.number)
        assert names == self.model.to_queue(job, stage, limit)
        for shard_id in names:
            ref = self.queue(job, stage, shard_id, self.model.epoch - deposed)
            if ref and not lost:
                self.messages.append(ref)

    @precondition(lambda self: self.published)
    @rule(which=some)
    def queue_what_was_queued_before(self, which: int) -> None:
        ref = self.published[which % len(self.published)]
        self.queue(self.model.jobs[ref.job_id], self.model.stage(ref), ref.shard_id, self.model.epoch)

    @rule()
    def publish_lost_messages(self) -> None:
        queued = self.ledger.shards.queued("default")
        late = [ref for ref, at in queued if self.model.now - at > GRACE_MS]
        self.messages += [ref for ref in late if ref not in self.messages]

    @rule(which=some, shards=st.integers(1, 4), worker=st.sampled_from(["w1", "w1", "w11"]), number=some)
    def work(self, which: int, shards: int, worker: str, number: int = 0) -> None:
        self.dispatch(which, number, shards, lost=False, deposed=False)
        for _ in self.messages[:shards]:
            self.deliver(-1, twice=False, worker=worker)

    @precondition(lambda self: self.messages)
    @rule(which=some, twice=rarely, worker=st.sampled_from(["w1", "w11"]))
    def deliver(self, which: int, *, twice: bool, worker: str) -> None:
        at = which % len(self.messages)
        self.claim(self.messages[at] if twice else self.messages.pop(at), f"{worker} {next(self.serial)}")

    @precondition(lambda self: self.published)
    @rule(which=some)
    def deliver_an_old_message(self, which: int) -> None:
        self.claim(self.published[which % len(self.published)], f"w1 {next(self.serial)}")

    @precondition(lambda self: self.model.attempts("running"))
    @rule(which=some, other=rarely, late=st.booleans())
    def claim_again(self, which: int, *, other: bool, late: bool) -> None:
        if attempt := self.attempt(which, late=late):
            self.claim(attempt.ref, "w1 other" if other else attempt.holder)

    @precondition(lambda self: self.model.attempts("running"))
    @rule(which=st.lists(some, min_size=1, max_size=3), late=st.booleans())
    def renew(self, which: list[int], *, late: bool) -> None:
        refs = [attempt.ref for number in which if (attempt := self.attempt(number, late=late))]
        used_us = [1_000_003 * next(self.serial) for _ in refs]
        words = [self.model.renew(ref, used, len(refs)) for ref, used in zip(refs, used_us, strict=True)]
        changes = any(word != "lost" for word in words)
        renew = partial(self.ledger.shards.renew, refs, LEASE_MS, used_us)
        self.check(" ".join(words), lambda: " ".join(renew()), changes=changes)

    @rule(ms=st.sampled_from([1, 900, GRACE_MS + 1, LEASE_MS - 1, LEASE_MS, 5 * LEASE_MS]))
    def clock_jumps(self, ms: int) -> None:
        self.model.now += ms
        self.ledger._store.now_ms = self.model.now

    @rule(deposed=rarely)
    def look_at_the_leases(self, *, deposed: bool) -> None:
        epoch = self.model.epoch - deposed
        looks = self.model.leads(epoch) and bool(self.model.leases())
        prolonged = self.model.extend_all_leases(epoch)
        extend = partial(self.ledger.leases.extend_all, epoch, LEASE_MS / 1000)
        self.check(str(prolonged), lambda: str(extend()), changes=looks)

    @rule(deposed=rarely, cut=st.integers(1, 6))
    def recover(self, *, deposed: bool, cut: int) -> None:
        late = sorted((at, member) for member, at in self.model.leases().items() if at <= self.model.now)
        refs = self.ledger.shards.expired(self.model.now)
        assert [ref.attempt_key for ref in refs] == [member for _, member in late]
        for ref in refs:
            if ref.attempt_key not in self.model.leases():  # a straggler of a shard that was taken back just now
                continue
            self.take_back(ref, self.model.epoch - deposed, cut)

    @precondition(lambda self: self.model.attempts("running"))
    @rule(cut=st.integers(1, 6))
    def all_leases_run_out(self, cut: int) -> None:
        self.clock_jumps(LEASE_MS)
        self.recover(deposed=False, cut=cut)

    @precondition(lambda self: self.model.attempts("running"))
    @rule(which=some, split=st.booleans(), deposed=rarely, late=st.booleans())
    def take_back_whatever_it_is(self, which: int, *, split: bool, deposed: bool, late: bool) -> None:
        attempt, epoch = self.attempt(which, late=late), self.model.epoch - deposed
        if attempt and split and attempt.shard.rows > 1:
            self.split(attempt.shard, epoch)
        elif attempt:
            self.expire_attempt(attempt.ref, epoch)

    @precondition(lambda self: self.model.attempts("running"))
    @rule(which=some, late=rarely, deposed=rarely, lost=rarely, worker=st.sampled_from(["w1", "w11", "w11", ""]))
    def speculate(self, which: int, worker: str, *, late: bool, deposed: bool, lost: bool) -> None:
        """worker: which claims the second attempt at once; "": none."""
        attempt = self.attempt(which, late=late)
        second = self.speculate_on(attempt.ref, self.model.epoch - deposed) if attempt else None
        if second and not lost:
            self.messages.append(second)
            if worker:
                self.deliver(-1, twice=False, worker=worker)

    @precondition(lambda self: self.model.attempts("running"))
    @rule(worker=st.sampled_from(["w1", "w11"]))
    def keep_leases(self, worker: str) -> None:
        refs = [ref for ref, _ in (self.model.attempts("running") | self.model.stragglers()).values()]
        held = self.model.keep_leases(worker)
        self.check(
            str(held), lambda: str(len(self.ledger.shards.keep_leases(worker, refs, LEASE_MS))), changes=held > 0
        )

    @precondition(lambda self: self.model.attempts("running"))
    @rule(which=some, worker=st.sampled_from(["w1", "w11"]), blames=st.booleans())
    def release_leases_of_worker(self, which: int, worker: str, *, blames: bool) -> None:
        attempt = self.attempt(which, late=False) if blames else None
        blamed = {attempt.ref.attempt_key} if attempt else None
        held = self.model.release_leases_of_worker(worker, blamed)
        self.check(
            str(held), lambda: str(len(self.ledger.shards.release_leases_of_worker(worker, blamed))), changes=held > 0
        )

    @precondition(lambda self: self.model.attempts("running"))
    @rule(which=some, delay_ms=delays_ms, checkpoint=st.sampled_from(["", "blob"]), stops=rarely, late=st.booleans())
    def end_attempt(self, which: int, delay_ms: int, checkpoint: str, *, stops: bool, late: bool) -> None:
        if attempt := self.attempt(which, late=late):
            error, delay_s, blame = ERROR if stops else None, delay_ms / 1000, not checkpoint
            used = self.used()
            word = self.model.end_attempt(attempt.ref, delay_ms, checkpoint, used, blame=blame, stops=stops)
            end = partial(
                self.ledger.shards.end_attempt,
                delay_s=delay_s,
                blame=blame,
                checkpoint=checkpoint,
                stop_with=error,
                used=used,
            )
            self.check(word, lambda: answer(lambda: end(attempt.ref)))

    @precondition(lambda self: self.model.attempts("running"))
    @rule(
        which=some,
        dead=st.sampled_from([0, 0, 1, 5]),
        inline=st.sampled_from([0, 40_000]),
        fan_out=st.sampled_from([None, None, 0, 1, 3]),
        first_rows=st.sampled_from([0, 0, 1, 2]),
        late=st.booleans(),
    )
    def commit(self, which: int, dead: int, inline: int, fan_out: int | None, first_rows: int, *, late: bool) -> None:
        if attempt := self.attempt(which, late=late):
            self.commit_attempt(attempt.shard, min(dead, attempt.shard.rows), b"x" * inline, fan_out, first_rows)

    @rule(which=some)
    def look(self, which: int) -> None:
        """A role reads what is live, and is cut short: it goes on when another step says so."""
        job = self.job(which)
        for number, live in self.live(job, "", late=False).items():
            self.seen[job.id, number, "unqueue"] = live
            if JobState(job.state or "completed").is_stopping and not job.names("running"):
                self.seen[job.id, number, "finish"] = live

    @rule(which=some, number=some, late=st.booleans(), deposed=rarely)
    def hold(self, which: int, number: int, *, late: bool, deposed: bool) -> None:
        self.steer(which, "resume")
        self.dispatch(which, number, 2, lost=False, deposed=False)
        self.steer(which, "pause")
        job, epoch, record = self.job(which), self.model.epoch - deposed, self.record(self.job(which))
        stage, live = self.stage(job, number), self.live(job, "unqueue", late=late)
        with self.seeing(live):
            unqueued = self.model.unqueue_paused(job, stage, epoch, live[stage.number])
            self.check(
                str(unqueued),
                lambda: str(self.ledger.jobs.unqueue_paused(record, record.stages[stage.number], epoch)),
                changes=unqueued > 0,
            )
        self.seen.setdefault((job.id, stage.number, "unqueue"), live[stage.number])

    @rule(which=some, wrong=rarely, late=rarely, deposed=rarely)
    def finish(self, which: int, *, wrong: bool, late: bool, deposed: bool) -> None:
        job, epoch, record = self.job(which), self.model.epoch - deposed, self.record(self.job(which))
        state = JobState.COMPLETED if wrong else JobState(DUE.get(job.state, "failed"))
        with self.seeing(self.live(job, "finish", late=late)):
            word = self.model.finish(job, state, epoch)
            self.check(word, lambda: said(self.ledger.jobs.finish(record, state, epoch), "busy"))

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        assert comparable(self.dump(), self.prefix) == self.model.written()

    @invariant()
    def the_indexes_hold_what_the_jobs_say(self) -> None:
        due, found = index_of(self.dump(), self.prefix, self.model.now)
        assert found == due

    @rule(rebuilt=st.booleans())
    def admit_retries_or_rebuild_the_indexes(self, *, rebuilt: bool) -> None:
        before = comparable(self.dump(), self.prefix)
        if rebuilt:
            self.redis.delete(*[key for key in self.dump() if key.startswith(f"{self.prefix}index:")] or ["none"])
            self.ledger.index.rebuild_all(self.ledger.jobs.live_ids())
        else:
            due = self.ledger.index.due({"default": Window(1000, {"echo"})}, 100)
            assert (due.now_ms, due.later) == (self.model.now, [])
            _, index = index_of(self.dump(), self.prefix, self.model.now)
            assert due.in_flight.get("default", {}) == stages_of(index.get("flight|default", {}))
            turns = [key for key in index if key.startswith("ready|default|")]
            ready = [stages_of(index[turn]) for turn in turns]
            assert sorted(due.ready.get("default", [])) == sorted(key for turn in ready for key in turn)
            assert sorted(due.unqueue) == sorted(stages_of(dict.fromkeys(index.get("unqueue", ()), 0)))
        assert comparable(self.dump(), self.prefix) == before

    def teardown(self) -> None:
        try:
            if sys.exception() is None and self.model.jobs:
                self.go_on_to_the_end()
        finally:
            self.redis.delete(*self.dump(), f"{self.prefix}none")

    def dispatch_all(self, going: list[int]) -> None:
        for number in going:
            for stage in self.job(number).stages:
                self.dispatch(number, stage.number, 1000, lost=False, deposed=False)

    def plan_later_stages(self, which: int) -> None:
        for stage in self.job(which).stages[1:]:
            self.plan(which, stage.number, [1000, 1000], at_end=False, stale=False, deposed=False)

    def go_on_to_the_end(self) -> None:
        """From wherever it stands, every job ends, and whatever was not stopped is done or dead, row by row."""
        self.change_leader(gap=False)
        going = [number for number, job in enumerate(self.model.jobs.values()) if job.state and not job.ended_at]
        for number in going:
            self.steer(number, "resume", 1_000_000.0)
            self.plan(number, 0, [2], at_end=True, stale=False, deposed=False)
        for more in (0.001, *[1000.0] * 8):  # the first budget is used up at once
            for number in going:
                self.steer(number, "resume", self.job(number).cost_nano / NANO + more)
                self.plan_later_stages(number)
            self.clock_jumps(5 * LEASE_MS)
            self.recover(deposed=False, cut=6)
            self.dispatch_all(going)
            self.clock_jumps(GRACE_MS + 1)
            self.publish_lost_messages()
            while self.messages:
                self.deliver(0, twice=False, worker="w1")
            while attempt := next((found for found in self.attempts if self.model.running(found.ref)), None):
                self.commit_attempt(attempt.shard, 0, b"x" * 40_000)  # there is room for one of these
                self.commit_attempt(attempt.shard, 0, b"")
            self.free(deposed=False)
            self.redis_holds_what_the_model_says()
        for number in going:
            stopped = JobState(self.job(number).state).is_stopping
            self.finish(number, wrong=not stopped, late=False, deposed=False)
            assert self.job(number).ended_at
        self.redis_holds_what_the_model_says()
        self.every_row_is_in_one_place()
        for number in range(len(self.model.jobs)):
            self.delete(number)
        for attempt in self.attempts[-5:]:  # awake at last
            self.commit_attempt(attempt.shard, 0, b"")
        assert not [key for key in self.dump() if ":{job-" in key]


def run_ledger_machine(valkey_url: str, examples: int) -> None:
    """Take the steps of so many examples, which are the same ones each time, with a ledger on a server."""
    steps = settings(
        max_examples=examples,
        stateful_step_count=50,
        derandomize=True,
        deadline=None,  # steps wait for a server
        suppress_health_check=[HealthCheck.too_slow],  # as above
    )
    with connect(valkey_url) as client:

        class OnThisServer(LedgerMachine):
            def __init__(self) -> None:
                super().__init__(client)

        run_state_machine_as_test(OnThisServer, settings=steps)
