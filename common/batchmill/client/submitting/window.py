"""A stage of a job that groups rows by key and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.client.submitting.stage import Stage
from batchmill.jobs.stateful.windows import WINDOW_OPERATOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Time = float | str
"""A time span: seconds, or text such as "30s" or "1h30m"."""


class Window(Stage):
    """A stage whose rows are windows: `Window(by="user", time="at", tumbling="1m", aggregate={"clicks": "count"})`.

    A window makes a row when the watermark has reached its end, or when no more rows come: the columns of `by` and
    `aggregate`, `window_start`, `window_end`, `window_id`, `revision`, and `merged_into`. It cannot be the first stage.

    Args:
        by: The columns that rows are grouped by; each group has windows of its own.
        time: The column with the time of a row: a timestamp, ISO 8601, or seconds or milliseconds since the epoch. Only
            `count` needs none.
        tumbling: The length of windows that follow each other.
        sliding: The length of windows, and the time from the beginning of one to that of the next.
        session: Rows are in one session if less than this time is between them.
        count: A window has this many rows, in the order in which they come.
        wait: How long rows may come after others of a later time. The watermark is this much behind the latest row.
        late: For how long behind its end a window still takes rows; it then fires again, as a revision. A row that no
            window takes fails, with the error type `late`.
        idle: A partition that is without rows for this long does not hold the watermark back; if all are, it continues
            with the clock. None: neither.
        partition: A column whose values have a watermark each; the lowest counts.
        aggregate: New columns, and what they have: `count`, `sum:COLUMN`, `mean:COLUMN`, `min:COLUMN`, `max:COLUMN`,
            `collect:COLUMN`, a list by time, or `top:COLUMN:N`. None: `rows`, the number of rows.
        strict: Whether rows before the watermark are late, and a gap of exactly `session` joins, as in Bytewax.
        groups: Into how many groups the keys are divided, up to 64. Groups run on several slots at once, and make the
            windows of one; each reads all rows.
        name: As of any `Stage`.
        pool: As of any `Stage`.
        keep: As of any `Stage`.
        buffer: As of any `Stage`.
        more: Further parameters of the operator `window`: `max_windows` and `max_rows` limit its state.

    Raises:
        InvalidRequest: An argument is not valid.
    """

    def __init__(
        self,
        *,
        by: str | Sequence[str] = (),
        time: str | None = None,
        tumbling: Time | None = None,
        sliding: tuple[Time, Time] | None = None,
        session: Time | None = None,
        count: int | None = None,
        wait: Time = 0.0,
        late: Time = 0.0,
        idle: Time | None = None,
        partition: str | None = None,
        aggregate: Mapping[str, str] | None = None,
        strict: bool = False,
        groups: int = 1,
        name: str | None = None,
        pool: str | None = None,
        keep: bool = False,
        buffer: int | str | None = None,
        **more: Any,
    ) -> None:
        params = {
            "by": by if isinstance(by, str) else list(by),
            "time": time,
            "tumbling": tumbling,
            "sliding": None if sliding is None else list(sliding),
            "session": session,
            "count": count,
            "wait": wait,
            "late": late,
            "idle": idle,
            "partition": partition,
            "aggregate": None if aggregate is None else dict(aggregate),
            "strict": strict,
            "groups": None if groups == 1 else groups,
            **more,
        }
        given = {key: value for key, value in params.items() if value is not None}
        super().__init__(WINDOW_OPERATOR, name=name, pool=pool, keep=keep, buffer=buffer, params=given)
