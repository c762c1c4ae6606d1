"""Metrics of the attempts of a device process, counted at almost no cost.

1. The executor and the attempt mark their phases for the trace; the same marks are added here to plain lists.
2. At a shard's end, and once a second within a long one, the lists are added up and written to prometheus-client,
   whose every write goes to a file in mapped memory. So the cost of writing does not grow with the number of batches.
3. The supervisor can read what is written, however the process ends; what is not, up to a second's worth, is lost.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any, assert_never

from batchmill.clock import Clock, SystemClock
from batchmill.jobs.retry import Done, Failed, Lost, Partial, Revoked
from batchmill.telemetry.metrics import DEAD_LETTERS, MAX_STAGE_NAMES, RETRIES, ROWS_SETTLED, BoundedNames
from batchmill_worker.metering import catalogue
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.runtime.trace import Phase, Recorder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from prometheus_client import CollectorRegistry

    from batchmill.jobs.job import StageSpec
    from batchmill.jobs.retry import Outcome
    from batchmill.jobs.status import TokenSums
    from batchmill.telemetry.metrics import BulkHistogram

WRITE_INTERVAL_S = 1.0
MAX_ERROR_TYPES = 32
"""How many error types a process distinguishes, over all of its operators."""
UNKNOWN = "unknown"
"""The operator of an attempt that was dropped before its operator was known."""

_NO_SPAN = nullcontext()


class AttemptOutcome(StrEnum):
    """How an attempt ended, as it is counted."""

    DONE = "done"  # committed
    ROWS_FAILED = "rows_failed"  # some rows are tried again; the others are in the checkpoint
    RELEASED = "released"  # the worker released it: it is being stopped, or the job was paused or stopped
    FAILED = "failed"  # the operator failed; another attempt follows
    GAVE_UP = "gave_up"  # the operator failed, and with it the job
    DROPPED = "dropped"  # the shard was another attempt's, or its job took no more work


RETRY_REASONS = {
    AttemptOutcome.ROWS_FAILED: "rows",
    AttemptOutcome.RELEASED: "released",
    AttemptOutcome.FAILED: "operator",
}
"""Why another attempt follows."""


def outcome_of(outcome: Outcome, result: AttemptResult) -> AttemptOutcome:
    """Return what an attempt counts as that was not dropped."""
    match outcome:
        case Done():
            return AttemptOutcome.DONE
        case Partial(_, failures):
            return AttemptOutcome.ROWS_FAILED if failures else AttemptOutcome.RELEASED
        case Revoked():
            return AttemptOutcome.RELEASED
        case Failed():
            return AttemptOutcome.GAVE_UP if result.status is AttemptStatus.FAILED else AttemptOutcome.FAILED
        case Lost():
            raise AssertionError("a lost attempt is counted by the recoverer")
        case never:
            assert_never(never)


BatchMark = tuple[float, int, float, float, bool]
"""One batch that was on the device: seconds, rows, units with padding and without, whether it failed."""


class AttemptMetrics:
    """The marks of one attempt that are not written yet. Several threads may add marks."""

    def __init__(self, clock: Clock) -> None:
        self.now = clock.monotonic
        self.began_at = self.written_at = self.now()
        self.operator = self.stage = UNKNOWN  # until it is claimed
        self.outcome = AttemptOutcome.DROPPED
        self.phases: list[tuple[Phase, float]] = []
        self.batches: list[BatchMark] = []

    def about(self, spec: StageSpec) -> None:
        """Count the attempt as one of this stage."""
        self.operator, self.stage = spec.operator, spec.title

    def take(self) -> tuple[list[tuple[Phase, float]], list[BatchMark]]:
        """Return the marks since the last call, and forget them."""
        return _drained(self.phases), _drained(self.batches)


def _drained(marks: list[Any]) -> list[Any]:
    """Take all marks out; one that is added meanwhile stays for the next time."""
    taken = marks[:]
    del marks[: len(taken)]
    return taken


class _PhaseSpan:
    __slots__ = ("_attempt", "_phase", "_started")

    def __init__(self, attempt: AttemptMetrics, phase: Phase) -> None:
        self._attempt = attempt
        self._phase = phase

    def __enter__(self) -> None:
        self._started = self._attempt.now()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        attempt = self._attempt
        attempt.phases.append((self._phase, attempt.now() - self._started))


class _BatchSpan:
    __slots__ = ("_about", "_attempt", "_metrics", "_started")

    def __init__(self, metrics: SlotMetrics, attempt: AttemptMetrics, about: dict[str, Any]) -> None:
        self._metrics = metrics
        self._attempt = attempt
        self._about = about

    def __enter__(self) -> None:
        self._started = self._attempt.now()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        attempt, about = self._attempt, self._about
        now = attempt.now()
        attempt.batches.append(
            (now - self._started, about["rows"], about["units"], about["true_units"], kind is not None)
        )
        if now - attempt.written_at > WRITE_INTERVAL_S:
            self._metrics.write(attempt)


class SlotMetrics(Recorder):
    """The metrics of one device process: as a recorder it times phases, and it counts how attempts end."""

    def __init__(self, registry: CollectorRegistry, pool: str, slot: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._pool = pool
        self._attempts: dict[str, AttemptMetrics] = {}  # by member
        self._counts = _Counts(registry)
        self._stages: dict[tuple[str, str], _StageCounts] = {}
        self._stage = BoundedNames(MAX_STAGE_NAMES)
        self._busy = catalogue.BUSY_SECONDS.counter(registry).labels(slot, pool)

    @contextmanager
    def attempt(self, member: str) -> Iterator[AttemptMetrics]:
        """Count the marks of this attempt, and its end: as dropped, unless `ended` is called."""
        attempt = AttemptMetrics(self._clock)
        self._attempts.setdefault(member, attempt)  # a message may come twice: the first one runs
        try:
            yield attempt
        finally:
            if self._attempts.get(member) is attempt:
                del self._attempts[member]
            self.write(attempt)
            counts = self._of(attempt)
            counts.ended[attempt.outcome].inc()
            if attempt.outcome is not AttemptOutcome.DROPPED:
                counts.attempt_seconds.observe(self._clock.monotonic() - attempt.began_at)

    def rows_failed(self, attempt: AttemptMetrics, errors: Iterable[str]) -> None:
        """Count the rows that failed in an attempt, by the type of their error; one type for each row."""
        for error, count in Counter(errors).items():
            self._of(attempt).row_failures(error, count)

    def ended(self, attempt: AttemptMetrics, outcome: Outcome, result: AttemptResult) -> None:
        """Count the end of an attempt, once it is in the ledger."""
        attempt.outcome = outcome_of(outcome, result)
        counts = self._of(attempt)
        if attempt.outcome in RETRY_REASONS:
            counts.retries[attempt.outcome].inc()
        match outcome:
            case Done(completion):
                counts.rows_done.inc(completion.rows)
                if completion.rows_cached:
                    counts.rows_cached.inc(completion.rows_cached)
                counts.tokens(completion.tokens)
                if completion.rows_dead:
                    counts.rows_dead.inc(completion.rows_dead)
                for error, count in completion.dead_by_type:
                    counts.dead_letters(error, count)
            case Failed(_, error_type):
                counts.attempt_failures(error_type or UNKNOWN)
            case _:
                return

    def span(self, phase: Phase, **about: Any) -> AbstractContextManager[None]:
        """Mark how long the context lasts, for the attempt `about["shard"]`."""
        attempt = self._attempts.get(about["shard"])
        if attempt is None:
            return _NO_SPAN
        return _BatchSpan(self, attempt, about) if phase is Phase.INFER else _PhaseSpan(attempt, phase)

    def write(self, attempt: AttemptMetrics) -> None:
        """Write the marks of an attempt to prometheus-client."""
        attempt.written_at = self._clock.monotonic()
        phases, batches = attempt.take()
        counts = self._of(attempt)
        counts.add_phases(phases)
        if batches:
            self._busy.inc(counts.add_batches(batches))

    def _of(self, attempt: AttemptMetrics) -> _StageCounts:
        key = attempt.operator, self._stage(attempt.stage)
        found = self._stages.get(key)
        if found is None:
            found = self._stages[key] = _StageCounts(self._counts, *key, self._pool)
        return found


class _Counts:
    """The metrics of attempts, for all stages."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.error = BoundedNames(MAX_ERROR_TYPES)
        self.attempts = catalogue.ATTEMPTS.counter(registry)
        self.attempt_seconds: BulkHistogram = catalogue.ATTEMPT_SECONDS.histogram(registry)
        self.phases = catalogue.PHASE_SECONDS.counter(registry)
        self.rows = ROWS_SETTLED.counter(registry)
        self.rows_cached = catalogue.ROWS_CACHED.counter(registry)
        self.tokens = catalogue.TOKENS.counter(registry)
        self.retries = RETRIES.counter(registry)
        self.batch_seconds: BulkHistogram = catalogue.BATCH_SECONDS.histogram(registry)
        self.batch_rows: BulkHistogram = catalogue.BATCH_ROWS.histogram(registry)
        self.batch_failures = catalogue.BATCH_FAILURES.counter(registry)
        self.units = catalogue.UNITS.counter(registry)
        self.row_failures = catalogue.ROW_FAILURES.counter(registry)
        self.attempt_failures = catalogue.ATTEMPT_FAILURES.counter(registry)
        self.dead_letters = DEAD_LETTERS.counter(registry)


class _StageCounts:
    """The metrics of a stage's name and operator, looked up once; those without an error label start at 0."""

    def __init__(self, counts: _Counts, operator: str, stage: str, pool: str) -> None:
        self._counts = counts
        self._work = work = operator, stage, pool
        self.ended = {each: counts.attempts.labels(*work, each.value) for each in AttemptOutcome}
        self.retries = {each: counts.retries.labels(*work, why) for each, why in RETRY_REASONS.items()}
        self.attempt_seconds = counts.attempt_seconds.labels(*work)
        self.rows_done = counts.rows.labels(*work, "done")
        self.rows_dead = counts.rows.labels(*work, "dead")
        self.rows_cached = counts.rows_cached.labels(*work)
        self._phases = {each: counts.phases.labels(*work, each.name.lower()) for each in Phase}
        self._batch_seconds = counts.batch_seconds.labels(operator, pool)
        self._batch_rows = counts.batch_rows.labels(operator, pool)
        self._batch_failures = counts.batch_failures.labels(operator, pool)
        self._useful = counts.units.labels(operator, pool, "useful")
        self._padding = counts.units.labels(operator, pool, "padding")

    def tokens(self, sums: TokenSums) -> None:
        if sums.total:  # else most stages would have them at 0
            for kind, number in sums:
                self._counts.tokens.labels(*self._work, kind).inc(number)

    def row_failures(self, error: str, count: int) -> None:
        self._counts.row_failures.labels(*self._work, self._counts.error(error)).inc(count)

    def attempt_failures(self, error: str) -> None:
        self._counts.attempt_failures.labels(*self._work, self._counts.error(error)).inc()

    def dead_letters(self, error: str, count: int) -> None:
        self._counts.dead_letters.labels(*self._work, self._counts.error(error)).inc(count)

    def add_phases(self, marks: list[tuple[Phase, float]]) -> None:
        totals: dict[Phase, float] = {}
        for phase, seconds in marks:
            totals[phase] = totals.get(phase, 0.0) + seconds
        for phase, seconds in totals.items():
            self._phases[phase].inc(seconds)

    def add_batches(self, marks: list[BatchMark]) -> float:
        """Add the batches, and return how many seconds they took."""
        seconds, rows, units, true_units, failed = zip(*marks, strict=True)
        busy_s, useful = sum(seconds), sum(true_units)
        self._phases[Phase.INFER].inc(busy_s)
        self._batch_seconds.observe_all(seconds)
        self._batch_rows.observe_all(rows)
        self._useful.inc(useful)
        padding = sum(units) - useful
        if padding > 0:
            self._padding.inc(padding)
        if any(failed):
            self._batch_failures.inc(sum(failed))
        return float(busy_s)
