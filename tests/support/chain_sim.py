"""Chains of stages over the real scripts and roles of a leader, on a clock of their own.

1. A seed draws a chain: its stages, rows, buffer and pools, and how often what goes wrong.
2. Planner, dispatcher, recoverer and buffer keeper are the real ones, over a real Valkey. Workers, the broker and the
   results are simulated: a row is its path (`chain_truth`), a result is a number of bytes.
   Some attempts commit only the first rows of their shard, and some run it through stages that join its own.
3. In each step some roles have a turn, in any order, some attempts end, and the clock moves. A leader may die before
   or after any script, another one may follow it, and one that was deposed may still take a turn.
4. After each step the buffers must be right (`ChainCheck`), and at the end every row must be in its place, once.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from batchmill.broker import queue_of
from batchmill.errors import StaleToken
from batchmill.fleet import WorkerInfo
from batchmill.jobs.completion import PassedStage, ShardRest, TriedStage
from batchmill.jobs.cost import Parts as CostParts
from batchmill.jobs.job import MIN_BUFFER_BYTES, JobForm, JobState, RetryPolicy, StageForm
from batchmill.jobs.shard import ShardRef
from batchmill.ledger import Ledger
from batchmill.ledger.scripting.connection import connect
from batchmill.operators.contract import OperatorInfo
from batchmill.settings import CoordinatorSettings
from batchmill.telemetry.metrics import new_registry
from batchmill.workspace import Workspace
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.results.freed_results import FreedResults
from batchmill_coordinator.results.resuming.resumption import Resumption
from batchmill_coordinator.results.stage_source import StageSource
from batchmill_coordinator.roles.buffers import BufferKeeper
from batchmill_coordinator.roles.dispatcher import Dispatcher
from batchmill_coordinator.roles.finisher import due_state
from batchmill_coordinator.roles.lost_rows import LostRowSettler
from batchmill_coordinator.roles.planner import Planner
from batchmill_coordinator.roles.recoverer import Recoverer
from support.chain_attempt import AttemptWork
from support.chain_check import ChainCheck, differences
from support.chain_parts import Broker, Parts, RootSource, StageParts
from support.hand_clock import HandClock
from support.ledger_steps import submit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path as Folder

    import redis

    from batchmill.jobs.shard import Shard
    from batchmill.ledger import JobRecord
    from batchmill.sources.base import Source
    from batchmill_coordinator.roles.role import Role
    from support.chain_truth import Kind, Path

JOB = "chain"
START_MS = 1_000_000_000_000
LEASE_MS = 10_000
FOREVER_S = 10**7
MAX_STEPS = 1_500
KINDS: list[tuple[Kind, ...]] = [
    ("expand", "map", "filter"),
    ("map", "expand", "map"),
    ("filter", "expand", "expand"),
    ("expand", "filter"),
]


class LeaderDiedError(BaseException):
    """The leader ends here; nothing of it may catch this."""


@dataclass(frozen=True)
class Setup:
    """What a seed draws."""

    kinds: tuple[Kind, ...]
    rows: int
    buffer_bytes: int
    pools: tuple[str, ...]  # of each stage
    slots: int  # of each pool
    target_s: float
    row_s: tuple[float, ...]  # of each stage
    joins: tuple[bool, ...]  # of each stage: whether it runs with the one before it
    partial: float  # the share of commits of the first rows of a shard only
    wrong: float  # the share of attempts that do not end well
    dies: float  # the share of scripts around which the leader dies

    @classmethod
    def draw(cls, seed: int) -> Setup:
        """The setup of a seed."""
        rng = random.Random(seed)
        kinds = rng.choice(KINDS)
        own = rng.random() < 0.3
        fused = not own and rng.random() < 0.5
        return cls(
            kinds=kinds,
            rows=rng.choice([1, 30, 80, 120]),
            buffer_bytes=rng.choice([MIN_BUFFER_BYTES, 4 * MIN_BUFFER_BYTES, 2**40]),
            pools=tuple(f"pool{number}" if own else "pool" for number in range(len(kinds))),
            slots=rng.choice([1, 2, 4]),
            target_s=1.0,
            row_s=(*[rng.choice([0.05, 0.1])] * (len(kinds) - 1), rng.choice([0.05, 0.5])),
            joins=(False, *(fused and rng.random() < 0.7 for _ in kinds[1:])),
            partial=rng.choice([0.0, 0.0, 0.2, 0.5]),
            wrong=rng.choice([0.0, 0.1, 0.3]),
            dies=rng.choice([0.0, 0.0, 0.01]),
        )


@dataclass(frozen=True)
class Held:
    """An attempt that a worker holds, when it ends and how."""

    shard: Shard
    ends_at_ms: int
    fate: str  # "commit", "commit twice", "fail", "release", "vanish" or "wake up late"
    work: AttemptWork


@dataclass
class Leader:
    """The roles of one coordinator, under the epoch at which it leads."""

    epoch: int
    planner: Planner
    dispatcher: Dispatcher
    recoverer: Recoverer
    keeper: BufferKeeper

    def roles(self) -> list[Role]:
        """Those that take turns."""
        return [self.planner, self.dispatcher, self.recoverer, self.keeper]

    @property
    def has_rebuilt_indexes(self) -> bool:
        """Whether its recoverer had its first turn: the leader before may have died over the indexes."""
        return self.recoverer._epoch == self.epoch

    def require_no_failure(self) -> None:
        """A role that met an error of a job would try again quietly."""
        for role in (self.planner, self.dispatcher, self.recoverer, self.keeper):
            assert not role._guard._failures, f"{role.name} failed"


class ChainSim:
    """A job from its submission to its end."""

    def __init__(
        self, client: redis.Redis, prefix: str, seed: int, settings: CoordinatorSettings, workspace: Workspace
    ) -> None:
        self.setup, self.rng, self.seed = Setup.draw(seed), random.Random(f"run {seed}"), seed
        self._settings = settings.model_copy(update={"shard_target_s": self.setup.target_s})
        self._workspace = workspace
        self._client, self.clock = cast("Any", client), HandClock()
        self.ledger = Ledger(client, prefix, now_ms=START_MS)  # of users and workers
        self._led = Ledger(client, prefix, now_ms=START_MS)  # of the leader: its scripts may be the last it does
        self._led._store.run = self._run_or_die  # type: ignore[method-assign]
        self.parts, self.held, self._may_die, self._step = Parts(), list[Held](), False, 0
        self.check = ChainCheck(self)
        self._announce()
        spec = JobForm(stages=[self._stage(number) for number in range(len(self.setup.kinds))]).spec()
        stages = (
            one.model_copy(update={"joins": joins}) for one, joins in zip(spec.stages, self.setup.joins, strict=True)
        )
        spec = spec.model_copy(update={"stages": tuple(stages)})
        submit(self.ledger, JOB, spec=spec, rows_total=self.setup.rows)
        self._leads_since, self.deposed = 0, list[Leader]()
        self.leader = self._lead()

    def _stage(self, number: int) -> StageForm:
        retry = RetryPolicy(max_attempts=3, backoff_s=0.5, backoff_max_s=20.0)
        return StageForm(
            operator="echo",
            name=f"stage{number}",
            pool=self.setup.pools[number],
            retry=retry,
            buffer_bytes=self.setup.buffer_bytes,
        )

    def _announce(self) -> None:
        for pool in set(self.setup.pools):
            worker = WorkerInfo(
                name=f"worker-of-{pool}",
                pool=pool,
                device="cpu",
                operators=["echo"],
                shards_at_once=self.setup.slots,
                pid=1,
                started_at=1.0,
            )
            echo = OperatorInfo(name="echo", params_schema={})
            self.ledger.fleet.announce(worker, [echo], FOREVER_S, changed=True)

    def record(self) -> JobRecord:
        """The job as the ledger has it."""
        return self.ledger.jobs.read(JOB)

    # -- leaders

    def _lead(self) -> Leader:
        epoch = self.ledger.lead(f"leader-{self._step}", FOREVER_S)
        assert epoch
        ledger, fleet = self._led, FleetView(self._led, self.clock)
        broker = cast("Any", Broker(self._client, ledger, self.rng, self.setup.wrong / 4, self.check.on_published))
        metrics = RoleMetrics(new_registry())
        settler = LostRowSettler(ledger, cast("Any", self.parts), self._open_source, self.clock)
        self.freed = FreedResults(ledger, cast("Any", self.parts), self.clock)
        resumption = Resumption(ledger, self._workspace)
        return Leader(
            epoch,
            Planner(ledger, fleet, self._open_source, resumption, self._settings),
            Dispatcher(ledger, fleet, broker, metrics),
            Recoverer(ledger, fleet, broker, settler, LEASE_MS / 1000, metrics),
            BufferKeeper(ledger, self.freed),
        )

    def _open_source(self, record: JobRecord, stage: int) -> Source:
        if stage == 0:
            return RootSource(self.setup.rows)
        return StageSource(self._led, record, stage, cast("Any", StageParts(self.parts, stage - 1)))

    def change_leader(self) -> None:
        """Another coordinator leads."""
        self.ledger.resign(f"leader-{self._leads_since}")
        self.deposed.append(self.leader)
        self._leads_since = self._step
        self.leader = self._lead()

    def _run_or_die(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """A script of the leader, who may die before or after it; decided by what it is, whatever thread runs it."""
        drawn = zlib.crc32(f"{self.seed} {self._step} {name} {keys[1:]}".encode()) / 2**32
        dies = self._may_die and drawn < self.setup.dies and not name.endswith("_planning")
        if dies and drawn < self.setup.dies / 2:
            raise LeaderDiedError
        reply = self.ledger._store.run(name, keys, arguments)
        if dies:
            raise LeaderDiedError
        return reply

    # -- a step

    def run(self) -> None:
        """Until the job has completed, and what is between its stages is deleted."""
        while not self.step():
            assert self._step < MAX_STEPS, f"deadlock: {self.record()}"
        self.check.after_the_end()

    def step(self) -> bool:
        """Roles, workers, time. Returns whether the job has completed."""
        self._step += 1
        if self.rng.random() < self.setup.dies:
            self.change_leader()
        roles = self.leader.roles()
        self.rng.shuffle(roles)
        self._may_die = True
        try:
            for role in roles:
                if self.rng.random() < 0.8:
                    self.check.begin_turn(role.name)
                    role.step(self.leader.epoch)
        except LeaderDiedError:
            self.change_leader()
        self._may_die = False
        self.leader.require_no_failure()
        if self.deposed and self.rng.random() < 0.1:
            self._turn_of_a_deposed_leader()
        self._work()
        record = self.record()
        self.check.after_a_step(record, self._step)
        self._pause_or_resume(record.state)
        self._pass_time()
        is_due = due_state(record) is JobState.COMPLETED
        return is_due and self.ledger.jobs.finish(record, JobState.COMPLETED, self.leader.epoch)

    def _turn_of_a_deposed_leader(self) -> None:
        before = self.check.fenced()
        deposed = self.deposed[-1]
        for role in (deposed.planner, deposed.dispatcher, deposed.recoverer):
            role.step(deposed.epoch)
        assert not (changed := differences(before, self.check.fenced())), f"a deposed leader changed {changed}"

    def _pause_or_resume(self, state: JobState) -> None:
        if state is JobState.RUNNING and self.rng.random() < 0.01:
            self.ledger.jobs.pause(JOB)
        elif state is JobState.PAUSED and self.rng.random() < 0.3:
            self.ledger.jobs.resume(JOB, None)

    def _pass_time(self) -> None:
        if self.held and self.rng.random() < 0.9:
            ends_at_ms = sorted(held.ends_at_ms for held in self.held)[:3][-1]
            wait_ms = max(ends_at_ms - self.ledger._store.now_ms, 1)
        else:
            wait_ms = self.rng.choice([1, 100, 3_000])
        wait_ms = min(wait_ms, 5_000)  # the leader looks at leases meanwhile, else it extends them
        for ledger in (self.ledger, self._led):
            ledger._store.now_ms += wait_ms
        self.clock.now_s += wait_ms / 1000

    # -- workers

    def _work(self) -> None:
        now_ms = self.ledger._store.now_ms
        for held in [held for held in self.held if held.ends_at_ms <= now_ms]:
            self.held.remove(held)
            self._end(held)
        awake = [held.shard.ref for held in self.held if held.fate not in ("vanish", "wake up late")]
        self.ledger.shards.renew(awake, LEASE_MS)
        for pool in sorted(set(self.setup.pools)):
            while self._at_work(pool) < self.setup.slots and (ref := self._take(pool)):
                self._claim(ref, pool)

    def _take(self, pool: str) -> ShardRef | None:
        found = self._client.rpop(self.ledger._queue_key(queue_of(pool)))
        return ShardRef.from_key(found) if found else None

    def _at_work(self, pool: str) -> int:
        return sum(
            self.setup.pools[held.shard.stage] == pool and held.fate not in ("vanish", "wake up late")
            for held in self.held
        )

    def _claim(self, ref: ShardRef, pool: str) -> None:
        try:
            claim = self.ledger.shards.claim(ref, pool, f"w {self._step}-{ref}", LEASE_MS, with_job=False)
        except StaleToken:
            return  # a message that was published twice
        if claim is None:
            return  # the job is paused
        shard = claim.shard
        took_ms = int(1000 * self.setup.row_s[shard.stage] * shard.rows * self.rng.uniform(0.5, 1.5))
        took_ms *= 8 if self.rng.random() < 0.05 else 1
        work = self._work_of(shard)
        fate = self._fate(shard, work)
        ends_at_ms = self.ledger._store.now_ms + max(took_ms, 1)
        if fate == "wake up late":
            ends_at_ms = self.ledger._store.now_ms + self.rng.randint(1, 4) * LEASE_MS
        self.held.append(Held(shard, ends_at_ms, fate, work))

    def _work_of(self, shard: Shard) -> AttemptWork:
        rows, first_rows = self.rows_of(shard), 0
        if shard.rows > 1 and self.rng.random() < self.setup.partial:
            first_rows = self.rng.randint(1, shard.rows - 1)
        goes_on = [self.rng.random() < 0.8 for _ in self.setup.kinds] if not shard.losses else []
        return AttemptWork.of(self.setup, shard, rows[: first_rows or len(rows)], goes_on)

    def _fate(self, shard: Shard, work: AttemptWork) -> str:
        if work.kills:
            return "vanish"
        may_be_lost = shard.rows > 1 or not shard.losses  # a row that is lost again and again becomes a dead letter
        if self.rng.random() >= self.setup.wrong or not may_be_lost:
            return "commit" if self.rng.random() < 0.9 else "commit twice"
        return self.rng.choice(["fail", "release", "vanish", "wake up late"])

    def rows_of(self, shard: Shard) -> list[Path]:
        """The rows of a shard."""
        if shard.stage == 0:
            rows: list[Path] = [(row,) for one in shard.slices for row in range(one.start, one.stop)]
        else:
            rows = self.parts.read(shard.stage - 1, shard.slices)
        return rows[shard.skip : shard.skip + shard.rows]

    def _end(self, held: Held) -> None:
        try:
            match held.fate:
                case "fail":
                    delay_s = self.rng.uniform(0, 20)
                    self.ledger.shards.end_attempt(held.shard.ref, delay_s=delay_s, blame=True)
                case "release":
                    self.ledger.shards.end_attempt(held.shard.ref, delay_s=0, blame=False, checkpoint="some rows")
                case "vanish":
                    return
                case _:
                    self._commit(held)
        except StaleToken:
            assert held.fate == "wake up late", f"{held} lost its shard"

    def _commit(self, held: Held) -> None:
        shard, work = held.shard, held.work
        own, *passed = work.completions(self.setup, shard)
        shard_id, last = shard.shard_id, work.made[-1]
        if work.rows < shard.rows:
            part, rest = shard.part_and_rest(work.rows)
            own, shard_id = replace(own, rest=ShardRest(rest, delay_s=self.rng.choice([0, 5]))), part.shard_id
        others = [PassedStage(one, None, CostParts(0), "1", "1") for one in passed]
        tried = TriedStage(self.rng.uniform(0, 20), failures=1) if work.may_try_next and held.fate == "commit" else None
        stage = shard.stage + len(passed)
        self.parts.paths[(stage, shard_id, shard.token)] = last.results
        for _ in range(2 if held.fate == "commit twice" else 1):
            assert self.ledger.shards.commit(shard.ref, own, passed=others, tried=tried)
        self.check.on_committed(stage, last.nbytes)


def run_seeds(seeds: Iterable[int], valkey_url: str, folder: Folder) -> None:
    """Run the chains of some seeds, one after the other; whatever fails names its seed."""
    settings = CoordinatorSettings(redis_url=valkey_url, blob_root=str(folder), unrestricted=True)
    workspace = Workspace.open(settings)
    with connect(valkey_url) as client:
        for seed in seeds:
            prefix = f"chain-{seed}:"
            try:
                ChainSim(client, prefix, seed, settings, workspace).run()
            except BaseException as error:
                error.add_note(f"seed {seed}: {Setup.draw(seed)}")
                raise
            finally:
                client.delete(*client.scan_iter(f"{prefix}*", count=1000), f"{prefix}none")
