"""Trials of settings that change no result, in the batches of one operator on one device.

1. Once the size of batches has settled, two batches in a row are a pair: one has the usual value and one the candidate,
   in random order.
2. Batches with the candidate hold at most `MAX_SHARE` of the units that this process has computed of a job. All
   processes keep to that, so the job does. What is too small for it has no trial.
3. A batch is void if it failed, if it was the last of its shard and so smaller than chosen, or if the other of its pair
   is of another job.
4. What the pairs show ends a trial (see `Evidence`), or a guard does: too little memory, failures, a batch that takes
   too long. Ending it is all that rolling back takes, since only batches of the trial had the candidate.
5. A candidate that won is the usual value from then on, in all workers of the same type of device and for all jobs of
   the operator with these parameters, until it expires and is tried anew. One value at a time: other candidates of the
   setting have to wait until then.
6. One trial of an operator runs at a time. One whose worker is gone is continued by another, with its evidence.

Rejected: trials of the precision or of what computes. They change results, so they are for users to decide.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from batchmill.insights.trials import Trial, TrialState
from batchmill_worker.batching.evidence import BatchOutcome, Evidence, broken_by_failure, broken_guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from random import Random

    from batchmill.clock import Clock

BATCH_SCALE = "batch_scale"
CANDIDATES = (2.0, 0.5)
USUAL = 1.0
MAX_SHARE = 0.05
MIN_CHANGE = 0.1  # of the units of a batch: less is not worth a trial
HELD_S = 7 * 86_400.0
STOPPED_S = 86_400.0
"""How long an outcome holds: a guard's is shorter, for what broke it may be temporary."""
GONE_AFTER_S = 600.0
"""The age from which a trial that was not updated is continued by another worker."""
MAX_JOBS = 64


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tried: an operator with its parameters, as digits of a digest, on a type of device."""

    operator: str
    params: str
    device_type: str


@dataclass(frozen=True, slots=True)
class Arm:
    """One batch of a pair."""

    pair: int
    value: float
    is_candidate: bool


@dataclass(slots=True)
class _Work:
    """Units of a job that were given to the device by this process. room_at: how many leave room for a candidate."""

    units: float = 0.0
    tried: float = 0.0
    room_at: float = 0.0


@dataclass(slots=True)
class _Pair:
    """The pair at hand. first: whether its first batch has the candidate. times: seconds a unit, by arm."""

    number: int = 0
    job: str = ""
    first: bool = False
    taken: int = 0
    times: dict[bool, float] = field(default_factory=dict)


class Trials:
    """The trials of one operator in one process. Safe for use by several threads.

    rng: the only source of chance, it decides the order in pairs. candidates: the values to try, in this order.
    """

    def __init__(
        self,
        subject: Subject,
        rng: Random,
        clock: Clock,
        kept: Iterable[Trial] = (),
        candidates: Sequence[float] = CANDIDATES,
    ) -> None:
        self._subject = subject
        self._rng = rng
        self._clock = clock
        self._candidates = candidates
        self._lock = Lock()
        self._kept: dict[str, Trial] = {one.id: one for one in kept}
        self._unsaved: dict[str, Trial] = {}
        self._work: OrderedDict[str, _Work] = OrderedDict()
        self._trial: Trial | None = None
        self._evidence = Evidence()
        self._failures = {True: 0, False: 0}
        self._pair = _Pair()

    @property
    def usual(self) -> float:
        """The value for batches outside of trials."""
        with self._lock:
            return self._usual()

    def to_try(self, job: str) -> Sequence[float]:
        """Return the values that a batch of a job may have now, for a trial, the first one preferred."""
        with self._lock:
            pair, work = self._pair, self._work.get(job)
            is_begun = pair.taken == 1 and pair.job == job
            return self._open() if is_begun or (work is not None and work.units >= work.room_at) else ()

    def next_arm(self, job: str, usual_units: float, units_of: Mapping[float, float]) -> Arm | None:
        """Decide whether the next batch is one of a trial.

        usual_units: the size of a batch outside of trials. units_of: the largest size with each value of `to_try`.
        """
        with self._lock:
            pair = self._pair
            if self._trial is not None and pair.taken == 1 and pair.job == job:
                return _arm(self._trial, pair.number, is_candidate=not pair.first)
            work = self._work.setdefault(job, _Work())
            candidate = self._first_apart(usual_units, units_of)
            units = usual_units if candidate is None else units_of[candidate]
            if candidate is None or work.tried + units > MAX_SHARE * work.units:
                work.room_at = max((work.tried + units) / MAX_SHARE, work.units + units)
                return None
            trial = self._trial or self._begin(candidate)
            self._pair = _Pair(pair.number + 1, job, first=self._rng.random() < 0.5)
            return _arm(trial, self._pair.number, is_candidate=self._pair.first)

    def took(self, job: str, units: float, arm: Arm | None, *, is_last: bool) -> None:
        """Note a batch that was taken from the rows of a job.

        units: what the device computes, padding included. is_last: whether no row of the shard is left.
        """
        with self._lock:
            work = self._work.setdefault(job, _Work())
            self._work.move_to_end(job)
            while len(self._work) > MAX_JOBS:
                self._work.popitem(last=False)
            work.units += units
            if arm is None:
                return
            work.tried += units if arm.is_candidate else 0.0
            if arm.pair == self._pair.number:
                self._pair.taken += 1
                if is_last:
                    self._void()

    def ran(self, arm: Arm, units: float, outcome: BatchOutcome, fixed_s: float) -> None:
        """Learn from a batch of a trial that ran. units: without padding. fixed_s: what a batch costs besides."""
        with self._lock:
            trial = self._trial
            if trial is None:
                return
            why = broken_guard(outcome) if arm.is_candidate else ""
            if why:
                self._end(trial, TrialState.STOPPED, why)
            elif arm.pair == self._pair.number and units > 0:
                self._pair.times[arm.is_candidate] = (outcome.seconds + fixed_s) / units
                self._judge(trial)

    def _judge(self, trial: Trial) -> None:
        times = self._pair.times
        if len(times) == 2:
            self._evidence = self._evidence.with_pair(times[False], times[True])
            self._void()
            self._end(trial, self._evidence.state)

    def failed(self, arm: Arm, *, out_of_memory: bool) -> None:
        """Learn from a batch of a trial that failed."""
        with self._lock:
            trial = self._trial
            if trial is None:
                return
            if arm.pair == self._pair.number:
                self._void()
            self._failures[arm.is_candidate] += 1
            why = broken_by_failure(
                out_of_memory=out_of_memory, failures=self._failures[True], usual_failures=self._failures[False]
            )
            if arm.is_candidate and why:
                self._end(trial, TrialState.STOPPED, why)

    def learn(self, kept: Iterable[Trial]) -> None:
        """Take over what the journal has. The trial at hand ends if another worker's has decided the same."""
        with self._lock:
            self._kept = {one.id: one for one in kept} | self._unsaved
            trial = self._trial
            if trial is None:
                return
            self._kept[trial.id] = trial
            others = [one for one in self._held() if one.candidate == trial.candidate or one.state is TrialState.WON]
            if others:
                self._end(trial, TrialState.UNDECIDED, f"{others[-1].id} of another worker has ended before it")

    def unsaved(self) -> list[Trial]:
        """Return the trials that the journal does not have as they are."""
        with self._lock:
            return list(self._unsaved.values())

    def saved(self, trial: Trial) -> None:
        """Note that the journal has a trial as it was in `unsaved`."""
        with self._lock:
            if self._unsaved.get(trial.id) is trial:
                del self._unsaved[trial.id]

    def _void(self) -> None:
        self._pair = _Pair(self._pair.number + 1)

    def _held(self) -> list[Trial]:
        """The trials whose outcome holds, the latest last."""
        now = self._clock.wall()
        held = [one for one in self._kept.values() if one.expires_at is not None and one.expires_at > now]
        return sorted(held, key=lambda one: one.updated_at)

    def _usual(self) -> float:
        won = [one.candidate for one in self._held() if one.state is TrialState.WON]
        return won[-1] if won else USUAL

    def _first_apart(self, usual_units: float, units_of: Mapping[float, float]) -> float | None:
        """The first value that changes the size of batches: a limit may leave no room for it."""
        least, usual = MIN_CHANGE * usual_units, self._usual()
        for value in self._open():
            units = units_of.get(value)
            if units is not None and (abs(units - usual_units) >= least or value == usual):
                return value
        return None

    def _open(self) -> Sequence[float]:
        """The value of the trial at hand, or those that one may begin with; none if there is nothing to try now."""
        if self._trial is not None:
            return (self._trial.candidate,)
        now, held = self._clock.wall(), self._held()
        if any(one.state is TrialState.WON for one in held):
            return ()
        if any(one.expires_at is None and now - one.updated_at < GONE_AFTER_S for one in self._kept.values()):
            return ()  # another worker has one
        known = {one.candidate for one in held}
        return [value for value in self._candidates if value not in known]

    def _begin(self, candidate: float) -> Trial:
        now, usual = self._clock.wall(), self._usual()
        begun = [
            one
            for one in self._kept.values()
            if one.expires_at is None and one.candidate == candidate and one.usual == usual
        ]
        trial = begun[-1] if begun else self._new(candidate, usual, now)
        self._evidence = Evidence(trial.pairs, trial.mean_log, trial.squares)
        self._failures = {True: 0, False: 0}
        return self._note(trial.model_copy(update={"updated_at": now}))

    def _new(self, candidate: float, usual: float, now: float) -> Trial:
        return Trial(
            id=f"trial-{secrets.token_hex(6)}",
            operator=self._subject.operator,
            params=self._subject.params,
            device_type=self._subject.device_type,
            setting=BATCH_SCALE,
            usual=usual,
            candidate=candidate,
            started_at=now,
            updated_at=now,
        )

    def _end(self, trial: Trial, state: TrialState, why: str = "") -> None:
        """Note how the trial at hand goes; it is over unless it runs on."""
        now, evidence = self._clock.wall(), self._evidence
        held_s = STOPPED_S if state is TrialState.STOPPED else HELD_S
        known = {"pairs": evidence.pairs, "mean_log": evidence.mean, "squares": evidence.squares}
        if evidence.pairs:
            width = min(evidence.half_width, math.log(100))
            ends = (("ratio", 0.0), ("low", -width), ("high", width))
            known |= {name: math.exp(evidence.mean + more) for name, more in ends}
        is_over = state is not TrialState.RUNNING
        changes = {"state": state, "why": why, "updated_at": now, "expires_at": now + held_s if is_over else None}
        self._note(trial.model_copy(update=known | changes))
        if is_over:
            self._trial = None
            self._void()

    def _note(self, trial: Trial) -> Trial:
        self._trial = trial
        self._kept[trial.id] = trial
        self._unsaved[trial.id] = trial
        return trial


def _arm(trial: Trial, pair: int, *, is_candidate: bool) -> Arm:
    return Arm(pair, trial.candidate if is_candidate else trial.usual, is_candidate)
