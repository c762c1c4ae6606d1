"""The users of a chaos run: they submit the jobs of the plan and handle them while the service breaks."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill.errors import BatchmillError, Conflict, InvalidRequest, NotFound, StorageError
from batchmill.jobs.job import JobState
from chaos.plan import GATHER, REPAIR, WORK, make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill import Client, Job
    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.jobs.status import JobStatus
    from chaos.plan import FailedRow, Plan
    from support.cluster import Cluster

AT_ONCE = 4  # jobs that are alive at a time
LOOK_S = 0.2


@dataclass(slots=True)
class Replay:
    """A replay: what is asked for, the same each time, and its id once it was accepted."""

    options: dict[str, Any]
    id: str = ""


@dataclass(slots=True)
class Submitted:
    """A job of the run, and how it stands."""

    plan: Plan
    id: str
    output: Path | None
    at: float  # monotonic: when it was submitted
    status: JobStatus | None = None
    resume_at: float = 0.0  # monotonic: when its pause is over
    did_fate: bool = False
    replay: Replay | None = None  # the one that is to be run or runs
    replay_ids: list[str] = field(default_factory=list)  # of all
    replay_ended: bool = False  # nothing is left to be replayed
    changed_at: float = 0.0  # monotonic: when a user last changed it, or saw that it or its replay had ended

    @property
    def is_final(self) -> bool:
        return self.status is not None and self.status.is_final

    @property
    def is_completed(self) -> bool:
        return self.status is not None and self.status.state is JobState.COMPLETED

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.is_final and (self.replay_ended or not (self.is_completed and self.plan.is_repaired))

    def dead(self) -> dict[FailedRow, str]:
        """The rows that must be dead now, each with its type of error."""
        return {} if self.replay_ended else self.plan.dead


@dataclass(slots=True)
class Loss:
    """A time whose changes the ledger has lost. Monotonic."""

    since: float
    until: float = math.inf
    is_repeated: bool = False


@dataclass(slots=True)
class Users:
    """A thread that keeps a few jobs alive, and pauses and cancels some of them, until it is told to end."""

    cluster: Cluster
    folder: Path
    seed: int
    jobs: list[Submitted] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # calls that failed in a way they must not
    unknown: set[str] = field(default_factory=set)  # jobs and replays that a ledger which was rolled back has not
    damaged: dict[str, Path] = field(default_factory=dict)  # a file with results of a job, in which a bit has changed
    losses: list[Loss] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="users", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Submit no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def losing_changes(self) -> Iterator[None]:
        """Expect that what is changed meanwhile is lost in the end, and repeat it then."""
        loss = Loss(time.monotonic())
        self.losses.append(loss)
        yield
        loss.until = time.monotonic()

    def settle(self, within_s: float) -> list[Submitted]:
        """Wait until all jobs have ended; those that have not, by then."""
        ends_at = time.monotonic() + within_s
        self._look_again()
        while (left := [job for job in self.jobs if not job.is_settled]) and time.monotonic() < ends_at:
            for job in left:
                self._tend(job)
            time.sleep(LOOK_S)
        return left

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look_again()
            live = [job for job in self.jobs if not job.is_settled]
            for job in live:
                self._tend(job)
            if len(live) < AT_ONCE:
                self._guarded(f"submit {len(self.jobs)}", self._submit)

    def _guarded(self, what: str, do: Any, *arguments: Any) -> None:
        began = time.monotonic()
        try:
            do(*arguments)
        except (BatchmillError, TimeoutError, OSError) as error:
            if not self._is_told(error, began):
                self.complaints.append(f"{what}: {type(error).__name__}: {error}")

    def _is_told(self, error: Exception, began: float) -> bool:
        """Whether users are told that the disk is full, or that a deadline has passed by a wrong clock; they try again.

        began: when they asked (monotonic).
        """
        if isinstance(error, StorageError):
            return os.strerror(errno.ENOSPC) in error.message
        clock = self.cluster.clock
        is_late = isinstance(error, InvalidRequest) and error.details.get("field") == "deadline_at"
        return is_late and clock is not None and not clock.was_right_since(began)

    def _look_again(self) -> None:
        """Repeat what a rolled-back ledger may have lost, as users do whose orders had been taken."""
        for loss in self.losses:
            if loss.until != math.inf and not loss.is_repeated:
                loss.is_repeated = True
                for job in self.jobs:
                    if max(job.at, job.changed_at) >= loss.since:
                        job.status, job.replay_ended = None, False
                        job.did_fate = job.did_fate and job.changed_at < loss.since

    def _may_be_lost(self, job: Submitted) -> bool:
        """Whether the ledger may have lost the job, or what was done to it."""
        return any(loss.since <= max(job.at, job.changed_at) and job.at <= loss.until for loss in self.losses)

    def _submit(self) -> None:
        plan = make_plan(self.seed, len(self.jobs))
        self.jobs.append(self._submitted(plan, str(plan.number)))

    def _submitted(self, plan: Plan, folder: str) -> Submitted:
        output = self.folder / "out" / folder if plan.output else None
        given = self._input(plan)
        options: dict[str, Any] = {
            "output": {"path": str(output), "format": plan.output} if output else None,
            "priority": plan.priority,
            "deadline": plan.fate_after_s + 3 if plan.fate == "expire" else None,
            "retry": plan.retry,
            "cache": plan.cached,
        }

        def submit(client: Client) -> str:
            key = f"chaos-{plan.number}"
            if plan.is_chain:
                return client.submit(**given, **options, stages=plan.stages(), fuse=plan.fuse, idempotency_key=key).id
            return client.submit(plan.operator, **given, **options, carry=["job", "id"], idempotency_key=key).id

        return Submitted(plan, self.cluster.ask(submit), output, time.monotonic())

    def _input(self, plan: Plan) -> dict[str, Any]:
        rows = plan.rows()
        if plan.source == "rows":
            return {"rows": rows}
        path = self.folder / "in" / f"{plan.number}.{plan.source}"
        path.parent.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(rows)
        if plan.source == "parquet":
            pq.write_table(table, path, row_group_size=100)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"source": path}

    def _tend(self, job: Submitted) -> None:
        self._guarded(f"status of {job.id}", self._look, job)
        if job.is_final:
            if not job.is_settled:
                self._guarded(f"replay of {job.id}", self._replay, job)
            return
        now = time.monotonic()
        if job.resume_at and now >= job.resume_at:
            job.resume_at = 0.0
            job.changed_at = now
            self._guarded(f"resume {job.id}", self._ask_of, job, "resume")
        elif not job.did_fate and job.plan.fate in ("pause", "cancel") and now - job.at >= job.plan.fate_after_s:
            job.did_fate = True
            job.changed_at = now
            self._guarded(f"{job.plan.fate} {job.id}", self._ask_of, job, job.plan.fate)
            job.resume_at = now + 1.5 if job.plan.fate == "pause" else 0.0

    def _look(self, job: Submitted) -> None:
        try:
            job.status = self.cluster.ask(lambda client: client.job(job.id).status())
        except NotFound:
            if not self._may_be_lost(job):
                raise
            self.unknown.add(job.id)
            again = self._submitted(job.plan, f"{job.plan.number}-{len(self.unknown)}")  # the folder is the lost job's
            self.unknown.update(job.replay_ids)
            job.id, job.output, job.at, job.did_fate, job.replay = again.id, again.output, again.at, False, None
            return
        if job.is_final:
            job.changed_at = time.monotonic()

    def _replay(self, job: Submitted) -> None:
        if job.replay is None:
            job.replay = self._next_replay(job)
        if job.replay is None:
            job.replay_ended = True
            return
        if not job.replay.id:
            options = job.replay.options
            job.replay.id = self.cluster.ask(lambda client: client.job(job.id).replay(**options).id)
            job.replay_ids.append(job.replay.id)
        self._look_at_replay(job, job.replay.id)

    def _next_replay(self, job: Submitted) -> Replay | None:
        """The stages of a chain are repaired in order: what the first replay makes is gathered by the second."""
        dead: list[DeadLetter] = self.cluster.ask(lambda client: client.job(job.id).dead_letters())
        work = job.plan.stage_of(WORK)
        edits = {letter.index: REPAIR for letter in dead if letter.stage == work}
        key = f"chaos-replay-{job.plan.number}-{len(job.replay_ids)}-{len(dead)}"
        if edits:
            stage = {"stage": WORK} if job.plan.is_chain else {}
            return Replay({"edits": edits, "idempotency_key": key, **stage})
        return Replay({"stage": GATHER, "idempotency_key": key}) if dead else None

    def _look_at_replay(self, job: Submitted, replay_id: str) -> None:
        try:
            status = self.cluster.ask(lambda client: client.job(replay_id).status())
        except NotFound:
            if not self._may_be_lost(job):
                raise
            self.unknown.add(replay_id)
            job.replay_ids.remove(replay_id)
            job.replay = None
            return
        if status.is_final:
            self._look(job)
            job.replay = None
            if status.state is not JobState.COMPLETED:
                job.replay_ended = True
                self.complaints.append(f"the replay of {job.id} ended {status.state}: {status.error}")

    def _ask_of(self, job: Submitted, what: str) -> None:
        def do(client: Client) -> None:
            found: Job = client.job(job.id)
            getattr(found, what)()

        try:
            self.cluster.ask(do)
        except Conflict:
            self._look(job)  # it ended just now, or the pause that it resumes from was lost
            if not (job.is_final or self._may_be_lost(job) or (job.status and job.status.state.is_stopping)):
                raise
