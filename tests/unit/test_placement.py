"""Target shards go: near their model, never to and fro, and none waits for ever. The fleet is simulated."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from batchmill.jobs.job import JobForm
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.record import JobStage
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.scheduling.model_demand import demands_of
from batchmill_coordinator.scheduling.pace import ModelPaces
from batchmill_coordinator.scheduling.placement import (
    MAX_DEFER_TIMEOUT_S,
    Demand,
    ShardPlacement,
    Target,
    chain_timeout_s,
    defer_timeout_s,
)

SETTLE_S = 1.5
WARM = WorkerCapacity("warm", 2, frozenset({"a"}), has_spare=False, load_s=1.0)
OTHER = WorkerCapacity("other", 2, frozenset({"b"}), has_spare=False, load_s=1.0)
EMPTY = WorkerCapacity("empty", 2)


def placed(workers: list[WorkerCapacity], demands: list[Demand], model: str = "a", times: int = 1) -> list[Target]:
    placement = ShardPlacement(workers, demands)
    return [placement.place(model) for _ in range(times)]


def test_a_shard_goes_to_a_worker_that_has_its_model() -> None:
    assert placed([EMPTY, WARM], [Demand("a", 1, 5)]) == [Target.MODEL]


def test_a_cold_model_goes_to_a_worker_with_room() -> None:
    assert placed([OTHER, EMPTY], [Demand("a", 0, 5), Demand("b", 1, 0)]) == [Target.SPARE]


def test_a_cold_model_goes_to_a_worker_that_has_nothing_to_do_when_none_has_spare() -> None:
    assert placed([WARM, OTHER], [Demand("c", 0, 1), Demand("a", 2, 9)], "c") == [Target.POOL]


def test_a_worker_for_whose_model_work_is_about_to_come_is_left_alone() -> None:
    assert placed([WARM, OTHER], [Demand("c", 0, 1), Demand("a", 2, 9), Demand("b", 0, 1)], "c") == [Target.DEFER]


def test_a_model_that_is_alone_in_its_pool_takes_every_place_and_the_window() -> None:
    where = placed([EMPTY, EMPTY], [Demand("a", 0, 9)], times=6)
    assert Target.DEFER not in where
    assert where.count(Target.SPARE) == 2


def test_half_as_many_shards_as_are_at_work_wait_for_the_workers_that_have_the_model() -> None:
    assert placed([WARM, OTHER], [Demand("a", 0, 9), Demand("b", 2, 9)], times=4) == [Target.MODEL] * 3 + [Target.DEFER]


def test_a_model_that_is_being_loaded_is_waited_for_while_others_want_the_pool() -> None:
    demands = [Demand("a", 0, 9), Demand("b", 0, 9)]
    placement = ShardPlacement([EMPTY, EMPTY], demands)
    assert [placement.place(model) for model in "aabb"] == [Target.SPARE, Target.DEFER, Target.SPARE, Target.DEFER]


def test_one_with_much_work_is_loaded_on_more_workers_at_once() -> None:
    demands = [Demand("a", 0, 9, work_s=9.0), Demand("b", 0, 1)]
    assert placed([EMPTY, EMPTY, EMPTY], demands, times=2) == [Target.SPARE] * 2


@pytest.mark.parametrize(("work_s", "drain_s", "where"), [(9.0, None, Target.POOL), (9.0, 0.5, Target.MODEL)])
def test_another_worker_loads_a_model_only_if_there_is_more_work_than_loading_costs(
    work_s: float, drain_s: float | None, where: Target
) -> None:
    assert placed([WARM, OTHER], [Demand("a", 2, 9, work_s=work_s, drain_s=drain_s)]) == [where]


def test_a_cold_model_displaces_one_at_work_when_it_has_waited_long_enough_and_one_shard_at_a_time() -> None:
    busy = [Demand("a", 2, 9), Demand("b", 2, 9)]

    assert placed([WARM, replace(OTHER, loading=frozenset("c"))], [*busy, Demand("c", 0, 5, waited_s=20.0)], "c") == [
        Target.DEFER
    ]
    spare = replace(OTHER, loading=frozenset("c"))
    assert placed([WARM, spare], [Demand("a", 2, 9), Demand("c", 1, 5)], "c") == [Target.MODEL]

    def of_c(waited_s: float, in_flight: int = 0, priority: int = 0) -> list[Target]:
        return placed([WARM, OTHER], [*busy, Demand("c", in_flight, 5, waited_s=waited_s, priority=priority)], "c")

    assert of_c(defer_timeout_s(1.0) - 0.1) == [Target.DEFER]
    assert of_c(defer_timeout_s(1.0)) == [Target.POOL]
    assert of_c(defer_timeout_s(1.0), in_flight=1) == [Target.DEFER]
    assert of_c(0.0, priority=1) == [Target.POOL]


def test_a_cold_model_need_not_wait_where_it_displaces_none() -> None:
    roomy = WorkerCapacity("roomy", 1, frozenset({"a"}), has_spare=True, load_s=5.0)
    assert placed([roomy], [Demand("a", 1, 9), Demand("c", 0, 1)], "c") == [Target.POOL]


@pytest.mark.parametrize(
    ("linked", "warm_workers", "waited_s", "where"),
    [
        ("a", 1, 0.9 * chain_timeout_s(1.0), Target.DEFER),  # until the buffer is full or empty
        ("a", 1, chain_timeout_s(1.0), Target.POOL),  # but no first result comes too late
        ("a", 2, defer_timeout_s(1.0), Target.POOL),  # the earlier stage keeps a worker
        ("", 1, defer_timeout_s(1.0), Target.POOL),  # of another job: it would not stop by itself
        ("a", 1, 0.9 * defer_timeout_s(1.0), Target.DEFER),
    ],
)
def test_a_stage_takes_the_last_worker_of_another_stage_of_its_job_only_after_a_long_wait(
    linked: str, warm_workers: int, waited_s: float, where: Target
) -> None:
    workers = [replace(WARM, name=str(number)) for number in range(warm_workers)]
    demands = [Demand("a", 2, 9), Demand("b", 0, 9, waited_s=waited_s, linked=frozenset(linked))]
    assert placed(workers, demands, "b") == [where]


def test_a_third_model_does_not_wait_for_a_chain() -> None:
    workers = [WARM, OTHER]
    demands = [Demand("a", 2, 9), Demand("b", 2, 9), Demand("c", 0, 9, waited_s=5.0, linked=frozenset("a"))]
    assert placed(workers, demands, "c") == [Target.POOL]


def test_models_are_linked_that_are_stages_of_the_same_jobs() -> None:
    def job(job_id: str, *operators: str) -> list[JobStage]:
        spec = JobForm(stages=[{"operator": operator} for operator in operators]).spec()
        shards = {b"shards_live": b"2", b"created_at": b"1"}
        known = {b"spec": spec.model_dump_json().encode(), b"state": b"running", b"created_at": b"1"}
        record = JobRecord.from_hashes(job_id, known, [shards for _ in operators])
        return [JobStage(record, stage) for stage in record.stages]

    def linked(*jobs: list[JobStage]) -> dict[str, str]:
        stages = [stage for one in jobs for stage in one]
        due, models = {stage.key for stage in stages}, {stage.key: stage.spec.operator for stage in stages}
        found = demands_of(stages, due, models, ModelPaces(), 1.0)
        return {demand.model: "".join(sorted(demand.linked)) for demand in found}

    assert linked(job("one", "a", "b", "c")) == {"a": "bc", "b": "ac", "c": "ab"}
    assert linked(job("one", "a", "b"), job("two", "b", "a")) == {"a": "b", "b": "a"}
    assert linked(job("one", "a", "b"), job("two", "b")) == {"a": "b", "b": ""}


def test_without_workers_shards_go_where_the_first_one_will_look() -> None:
    assert placed([], [Demand("a", 0, 1), Demand("b", 0, 1)]) == [Target.POOL]


@dataclass
class Worker:
    """Two slots, memory for one model; what is in use is not dropped."""

    name: str
    slots: int = 2
    model: str = ""
    running: list[tuple[str, float]] = field(default_factory=list)  # (model, when it ends)
    loading: str = ""
    load_ends: float = 0.0
    consumes_at: float = 0.0  # from its model's queue, when a BRPOP without it has ended
    known_at: float = 0.0  # when its model is announced: a loaded one's queue has to settle first
    turn: int = 0


@dataclass
class Fleet:
    """A simulated pool in steps of 50 ms: the dispatcher places, workers pop, load and run."""

    workers: list[Worker]
    load_s: float
    shard_s: float
    seed: int
    now: float = 0.0
    loads: Counter[str] = field(default_factory=Counter)
    queues: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    backlog: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))  # when each shard came
    in_flight: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    paces: ModelPaces = field(default_factory=ModelPaces)
    chain: str = ""  # models that are known to be stages of one job, in order

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def step(self) -> None:
        self.now += 0.05
        for worker in self.chance.sample(self.workers, len(self.workers)):
            self.work(worker)
        self.dispatch()
        for worker in self.chance.sample(self.workers, len(self.workers)):
            self.pop(worker)

    def work(self, worker: Worker) -> None:
        for model, ends in list(worker.running):
            if ends <= self.now:
                worker.running.remove((model, ends))
                self.in_flight[model] -= 1
                self.done[model] += 1
        if worker.loading and not worker.load_ends and not worker.running:
            worker.model, worker.load_ends = "", self.now + self.load_s
            worker.known_at, worker.consumes_at = self.now + max(self.load_s, SETTLE_S), self.now + 1.0
            self.loads[worker.loading] += 1
        if worker.loading and worker.load_ends and worker.load_ends <= self.now:
            worker.model, worker.loading, worker.load_ends = worker.loading, "", 0.0
            worker.running.append((worker.model, self.now + self.shard_s))

    def pop(self, worker: Worker) -> None:
        while not worker.loading and len(worker.running) < worker.slots:
            own = [worker.model] if worker.model and worker.consumes_at <= self.now else []
            names = ["pool", *(["spare"] if not worker.model else []), *own]
            worker.turn += 1
            names = names[worker.turn % len(names) :] + names[: worker.turn % len(names)]
            found = next((name for name in names if self.queues[name]), None)
            if found is None:
                return
            model = self.queues[found].popleft()
            if model == worker.model:
                worker.running.append((model, self.now + self.shard_s))
            else:
                worker.loading = model

    def capacity(self, worker: Worker) -> WorkerCapacity:
        is_known = worker.known_at <= self.now and not worker.loading
        models = frozenset({worker.model} - {""}) if is_known else frozenset[str]()
        loading = frozenset({worker.loading or worker.model} - {""} - models)
        return WorkerCapacity(
            worker.name, worker.slots, models, loading, not (worker.model or worker.loading), self.load_s
        )

    def demand(self, model: str) -> Demand:
        waiting = self.backlog[model]
        waited = self.paces.waited_s(model, waiting[0], self.now) if waiting else 0.0
        drain = self.paces.drain_s(model, len(waiting), self.now)
        linked = frozenset(self.chain) - {model} if model in self.chain else frozenset[str]()
        return Demand(model, self.in_flight[model], len(waiting), drain_s=drain, waited_s=waited, linked=linked)

    def turn(self, model: str) -> tuple[int, int]:
        return 0, self.in_flight[model]

    def dispatch(self) -> None:
        members = [self.capacity(worker) for worker in self.workers]
        consumed = {"pool", *(model for one in members for model in one.models | one.loading)}
        if any(one.has_spare for one in members):
            consumed.add("spare")
        for name in self.queues.keys() - consumed:  # what nobody consumes from is taken back
            for model in self.queues.pop(name):
                self.in_flight[model] -= 1
                self.backlog[model].appendleft(self.now)
        capacity = sum(one.slots for one in members)
        room = capacity + max(2, capacity // 2) - self.in_flight.total()
        placement = ShardPlacement(members, [self.demand(model) for model in self.backlog])
        candidates = sorted(model for model, waiting in self.backlog.items() if waiting)
        queued, held = Counter[str](), set()
        while room > 0 and candidates:
            model = min(candidates, key=self.turn)
            where = placement.place(model)
            if where is Target.DEFER:
                held.add(model)
                candidates.remove(model)
                continue
            self.longest = max(self.longest, self.now - self.backlog[model].popleft())
            self.queues[{Target.MODEL: model, Target.SPARE: "spare"}.get(where, "pool")].append(model)
            self.in_flight[model] += 1
            queued[model] += 1
            room -= 1
            if not self.backlog[model]:
                candidates.remove(model)
        for model in {*queued, *held}:
            self.paces.note(model, queued[model], deferred=model in held, warm=placement.is_warm(model), now_s=self.now)


def run(fleet: Fleet, arrivals: dict[float, str]) -> None:
    due = sorted(arrivals.items())
    while due or any(fleet.backlog.values()) or fleet.in_flight.total():
        while due and due[0][0] <= fleet.now:
            at, model = due.pop(0)
            fleet.backlog[model].append(at)
        fleet.step()
        assert fleet.now < 300, "the shards are never done"


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    order=st.permutations("ab" * 20),
    gap_s=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    load_s=st.sampled_from([0.05, 0.3, 1.0, 5.0]),
    seed=st.integers(0, 999),
)
def test_two_workers_load_each_of_two_models_at_most_twice_for_forty_jobs(
    order: list[str], gap_s: float, load_s: float, seed: int
) -> None:
    fleet = Fleet([Worker("0"), Worker("1")], load_s=load_s, shard_s=0.05, seed=seed)
    run(fleet, {number * max(gap_s, 1e-6): model for number, model in enumerate(order)})
    assert fleet.done == {"a": 20, "b": 20}
    assert max(fleet.loads.values()) <= 2


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    workers=st.integers(1, 4),
    arrivals=st.lists(
        st.tuples(st.integers(0, 200).map(lambda tenths: tenths / 10), st.sampled_from("abcdef")),
        min_size=1,
        max_size=80,
    ),
    load_s=st.sampled_from([0.1, 1.0, 5.0]),
    shard_s=st.sampled_from([0.05, 1.0]),
    seed=st.integers(0, 999),
)
def test_every_shard_is_done_and_loading_takes_a_bounded_share_of_the_time(
    workers: int, arrivals: list[tuple[float, str]], load_s: float, shard_s: float, seed: int
) -> None:
    fleet = Fleet([Worker(str(number)) for number in range(workers)], load_s=load_s, shard_s=shard_s, seed=seed)
    run(fleet, dict(arrivals))
    assert fleet.done.total() == len(dict(arrivals))
    kinds = len(fleet.backlog)
    assert fleet.loads.total() <= kinds * workers + kinds * (fleet.now / defer_timeout_s(load_s) + 1)


@dataclass
class ChainFleet(Fleet):
    """A job of the stages `a` and `b`: each shard of `a` gives one of `b`; at most `buffer` are between them."""

    shards: int = 240
    buffer: int = 80
    most_buffered: int = 0

    def turn(self, model: str) -> tuple[int, int]:
        return -"ab".find(model), self.in_flight[model]

    def step(self) -> None:
        planned = self.done["a"] + self.in_flight["a"] + len(self.backlog["a"])
        while planned < self.shards and planned - self.done["b"] < self.buffer:
            self.backlog["a"].append(self.now)
            planned += 1
        made = self.done["b"] + self.in_flight["b"] + len(self.backlog["b"])
        self.backlog["b"].extend([self.now] * (self.done["a"] - made))
        super().step()

    def finish(self) -> ChainFleet:
        while self.done["b"] < self.shards:
            self.step()
            self.most_buffered = max(self.most_buffered, self.done["a"] - self.done["b"])
            assert self.now < 5000, "the chain is never done"
        return self


def chain_of(workers: int, load_s: float, seed: int, *, is_known: bool) -> ChainFleet:
    fleet = [Worker(str(number)) for number in range(workers)]
    return ChainFleet(fleet, load_s, shard_s=0.5, seed=seed, chain="ab" if is_known else "").finish()


@pytest.mark.parametrize(("workers", "load_s", "most_loads"), [(1, 1.0, 0.5), (1, 5.0, 0.8), (2, 5.0, 0.4)])
def test_two_stages_do_not_load_their_models_in_turns(workers: int, load_s: float, most_loads: float) -> None:
    apart = chain_of(workers, load_s, 1, is_known=False)
    chain = chain_of(workers, load_s, 1, is_known=True)
    assert chain.done == apart.done == {"a": 240, "b": 240}
    assert chain.most_buffered <= 80
    assert chain.loads.total() <= most_loads * apart.loads.total()
    assert chain.now < apart.now


def test_two_stages_on_one_worker_change_when_the_buffer_is_full_or_empty() -> None:
    chain = chain_of(1, 12.0, 1, is_known=True)
    assert chain.loads == {"a": 240 // 80, "b": 240 // 80}


def test_a_cold_job_gets_its_turn_among_jobs_that_keep_every_worker_busy_for_ever() -> None:
    fleet = Fleet([Worker("0"), Worker("1")], load_s=1.0, shard_s=0.2, seed=1)
    arrivals = {number * 0.02: "ab"[number % 2] for number in range(2000)}
    arrivals[10.001] = "c"
    due = sorted(arrivals.items())
    while not fleet.done["c"]:
        while due and due[0][0] <= fleet.now:
            at, model = due.pop(0)
            fleet.backlog[model].append(at)
        fleet.step()
        assert fleet.now < 10 + defer_timeout_s(1.0) + MAX_DEFER_TIMEOUT_S
    assert fleet.loads["c"] == 1


def test_the_timeout_of_deferring_is_a_multiple_of_what_loading_costs_within_bounds() -> None:
    assert [defer_timeout_s(load_s) for load_s in (0.0, 2.0, 1000.0)] == [2.0, 8.0, 30.0]


def test_the_pace_of_a_model_is_what_it_was_while_shards_were_held_back() -> None:
    paces = ModelPaces()
    paces.note("a", 2, deferred=False, warm=True, now_s=10.0)
    assert paces.drain_s("a", 5, 10.0) is None
    paces.note("a", 1, deferred=True, warm=True, now_s=11.0)
    paces.note("a", 2, deferred=True, warm=True, now_s=12.0)
    assert paces.drain_s("a", 10, 12.0) == pytest.approx(5.0)
    assert paces.drain_s("a", 10, 15.0) == pytest.approx(30.0)
    paces.note("a", 0, deferred=True, warm=False, now_s=15.0)
    assert paces.drain_s("a", 10, 15.0) is None
    assert paces.waited_s("a", 3.0, 15.0) == pytest.approx(3.0)
    assert paces.waited_s("a", 14.0, 15.0) == pytest.approx(1.0)
    assert paces.waited_s("b", 3.0, 15.0) == pytest.approx(12.0)
