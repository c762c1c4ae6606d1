"""`window`: groups of rows by key and time, each of which makes one row, and another one for each late row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from batchmill.caches import Lru
from batchmill.durations import Span
from batchmill.errors import InvalidRows, closest
from batchmill.jobs.stateful.window_params import MAX_SPAN_S, WINDOW_KINDS, check_window, parse_aggregate
from batchmill.jobs.stateful.windows import MAX_GROUPS, WINDOW_OPERATOR
from batchmill.operators.contract import OperatorKind
from batchmill.operators.registration import operator
from batchmill_worker.engine.state_executor import StatefulResults, StatefulRows
from batchmill_worker.windows.aggregates import KINDS, Aggregate, Top
from batchmill_worker.windows.columns import rows_in, table_of, texts_in, times_of, used_schema
from batchmill_worker.windows.encoding import decode_state, encode_state
from batchmill_worker.windows.groups import PassingRows, rows_of_group
from batchmill_worker.windows.rules import WindowKind, WindowRule
from batchmill_worker.windows.state import WindowState
from batchmill_worker.windows.stepping import Arrival, Limits, Refusal, Windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.jobs.stateful.step import StateStep
    from batchmill_worker.windows.stepping import Firing

MAX_STATES = 16
"""States that a process keeps in memory, one of a stage and group, so that the next shard need not read them."""

Length = Annotated[float, Span(gt=0, le=MAX_SPAN_S)]
Wait = Annotated[float, Span(ge=0, le=MAX_SPAN_S)]


@operator(
    WINDOW_OPERATOR, batch_format="arrow", batch_size=None, expands=True, cacheable=False, kind=OperatorKind.STATE
)
class Window:
    """Group rows by key and time. Each window makes a row when the time of the rows has passed its end.

    Results have the columns of `by`, `window_id`, `window_start`, `window_end`, `revision`, `merged_into`, and those of
    `aggregate`.
    """

    def __init__(
        self,
        *,
        time: Annotated[str | None, Field(description="The column with the time of a row.")] = None,
        by: Annotated[list[str] | str, Field(description="Columns whose values have windows of their own.")] = [],  # noqa: B006  # it is not changed
        tumbling: Annotated[Length | None, Field(description="Length of windows that follow each other.")] = None,
        sliding: Annotated[
            tuple[Length, Length] | None, Field(description="Length of windows, and from one beginning to the next.")
        ] = None,
        session: Annotated[Length | None, Field(description="A gap of this length ends a session.")] = None,
        count: Annotated[int | None, Field(ge=1, description="Rows of a window.")] = None,
        wait: Annotated[Wait, Field(description="How long rows may be behind the latest one.")] = 0.0,
        late: Annotated[Wait, Field(description="For how long after its end a window takes rows.")] = 0.0,
        idle: Annotated[
            Length | None, Field(description="Without rows for this long, time passes by the clock.")
        ] = None,
        partition: Annotated[str | None, Field(description="A column: each value, at most 1,000, has a clock.")] = None,
        aggregate: Annotated[dict[str, str], Field(description="New columns, and what they have.")] = {"rows": "count"},  # noqa: B006  # it is not changed
        strict: Annotated[bool, Field(description="Rows before the watermark are late, as in Bytewax.")] = False,
        groups: Annotated[int, Field(ge=1, le=MAX_GROUPS, description="Groups of keys, which run side by side.")] = 1,
        max_windows: Annotated[int, Field(ge=1, le=10_000_000, description="Open windows, at most.")] = 1_000_000,
        max_rows: Annotated[int, Field(ge=1, le=10_000_000, description="Rows that a window collects.")] = 100_000,
    ) -> None:
        kinds = dict(zip(WINDOW_KINDS, (tumbling, sliding, session, count), strict=True))
        spans = {"wait": wait, "late": late, "idle": idle}
        check_window({**kinds, **spans, "time": time, "by": by, "aggregate": aggregate, "groups": groups})
        self._kind = WindowKind(next(name for name, value in kinds.items() if value is not None))
        self._time, self._partition = time, partition
        self._by = [by] if isinstance(by, str) else list(by)
        self._rule = self._rule_of(kinds, _ms(wait), _ms(late), None if idle is None else _ms(idle), strict=strict)
        self._aggregates = {name: _aggregate(name, text) for name, text in aggregate.items()}
        columns = [*self._by, *(one.column for one in self._aggregates.values() if one.column)]
        self._columns = list(dict.fromkeys([*columns, *([partition] if partition else [])]))
        nbytes = Limits().nbytes // groups
        self._limits = Limits(windows=math.ceil(max_windows / groups), rows_per_window=max_rows, nbytes=nbytes)
        self._states: Lru[tuple[str, int], _KeptState] = Lru(MAX_STATES)

    def infer(self, shard: StatefulRows) -> StatefulResults:
        """Put the rows of a shard into their windows."""
        state, schema = self._state(shard)
        first, step = state.firings, shard.step
        windows = Windows(self._rule, list(self._aggregates.values()), state, self._limits)
        firings: list[Firing] = []
        counts = [0] * (shard.rows.num_rows + 1)
        owed = 0  # of what fires at rows that fail: it is made of the next row
        errors: dict[int, tuple[str, str]] = {}
        for start, run in shard.runs():
            schema, unfit = used_schema(run, self._columns, schema)
            times = times_of(run, self._time) if self._time else [step.now_ms] * run.num_rows
            partitions = texts_in(run, self._partition) if self._partition else None
            no_time = self._without_time(run.column_names)
            places, rows = _rows_of_group(run, self._by, step)
            passing = PassingRows(times, partitions)
            for place, row in zip(places, rows_in(rows, self._columns, schema), strict=True):
                windows.pass_by(*passing.until(place), step.now_ms)
                partition = "" if partitions is None else partitions[place]
                arrival = self._arrival(row, times[place], partition, unfit, no_time)
                if isinstance(arrival, str):
                    errors[start + place] = (Refusal.BAD_VALUE, arrival)
                    windows.pass_by(1, _moves(partition, times[place]), step.now_ms)
                    continue
                fired, refused = windows.add(arrival, step.now_ms)
                firings += fired
                owed += len(fired)
                if refused is not None:
                    errors[start + place] = (refused.why, refused.message)
                else:
                    counts[start + place], owed = owed, 0
            windows.pass_by(*passing.until(run.num_rows), step.now_ms)
        ended = windows.flush() if step.is_last else windows.tick(step.now_ms)
        counts[-1] = owed + len(ended)
        numbers = range(first * step.groups + step.group, state.firings * step.groups + step.group, step.groups)
        try:
            results = table_of([*firings, *ended], numbers, self._by, self._aggregates, schema)
        except (pa.ArrowException, OverflowError) as error:
            raise InvalidRows(f"operator 'window': values of one column have several types: {error}") from error
        data = encode_state(state, schema)
        self._states.put((_stage_of(shard.name), step.group), _KeptState(shard.name, step.now_ms, state, schema))
        return StatefulResults(results, counts, data, errors)

    def _state(self, shard: StatefulRows) -> tuple[WindowState, pa.Schema]:
        """Return the state to begin with; a copy in memory is used once, as a step changes it."""
        known = self._states.pop((_stage_of(shard.name), shard.step.group))  # also if another process has continued
        if not shard.before:
            return WindowState(), pa.schema([])
        if known is not None and (known.name, known.now_ms) == (shard.before, shard.step.before_ms):
            return known.state, known.schema
        return decode_state(shard.load(), self._rule)

    def _without_time(self, names: Sequence[str]) -> str:
        """Say what is wrong with rows of these columns that have no time."""
        if self._time is None or self._time in names:
            return f"column {self._time!r}: expected a time in the years 2 to 9998"
        near = closest(self._time, names)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"the rows have no column {self._time!r}, which is to have their time.{hint}"

    def _arrival(
        self, row: Mapping[str, Any] | str, at: int | None, partition: str, unfit: Mapping[str, str], no_time: str
    ) -> Arrival | str:
        """Return a row as windows take it, or what is wrong with it.

        unfit: what is wrong with columns. no_time: what is wrong with a row without a time.
        """
        if at is None:
            return no_time
        if isinstance(row, str):
            return row
        for name, why in unfit.items():
            if row[name] is not None:
                return why
        key = tuple(row[name] for name in self._by)
        try:
            hash(key)
        except TypeError:
            return f"columns {', '.join(self._by)}: expected numbers, texts or times"
        if any(isinstance(value, float) and math.isnan(value) for value in key):
            return f"columns {', '.join(self._by)}: expected numbers, texts or times, got NaN"  # it equals no other
        return Arrival(key, at, row, partition)

    def _rule_of(self, kinds: Mapping[str, Any], wait: int, late: int, idle: int | None, *, strict: bool) -> WindowRule:
        value = kinds[self._kind.value]
        size, every = (_ms(value[0]), _ms(value[1])) if self._kind is WindowKind.SLIDING else (value, 0)
        if self._kind in (WindowKind.TUMBLING, WindowKind.SESSION):
            size = _ms(value)
        return WindowRule(self._kind, size, every, wait_ms=wait, late_ms=late, idle_ms=idle, strict=strict)


class _KeptState(NamedTuple):
    """A state in memory. now_ms: when the shard that has left it was planned."""

    name: str
    now_ms: int
    state: WindowState
    schema: pa.Schema


def _rows_of_group(rows: pa.Table, by: Sequence[str], step: StateStep) -> tuple[Sequence[int], pa.Table]:
    """Return the places of the rows that a shard takes, and these rows."""
    if step.groups == 1:
        return range(rows.num_rows), rows
    places = rows_of_group(rows, by, step.group, step.groups)
    return places.tolist(), rows.take(pa.array(places))


def _moves(partition: str, at: int | None) -> Sequence[tuple[str, int]]:
    return () if at is None else [(partition, at)]


def _stage_of(name: str) -> str:
    """Return the stage of a state."""
    return name.rpartition("/")[0]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _aggregate(name: str, text: str) -> Aggregate:
    form = parse_aggregate(name, text)
    return Top(form.column, form.most) if form.kind == "top" else KINDS[form.kind](form.column)
