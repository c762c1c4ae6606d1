"""The parameters of a stage with windows, checked as users write them: at submit by the client and the service. Pure.

What has another type than expected is passed over: the schema of the operator says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from batchmill.columns import RESERVED_PREFIX
from batchmill.columns.lineage import LINEAGE
from batchmill.durations import EXAMPLES, seconds_in
from batchmill.errors import InvalidParams, did_you_mean
from batchmill.jobs.stateful.windows import MAX_GROUPS, WINDOW_OPERATOR

WINDOW_KINDS = ("tumbling", "sliding", "session", "count")

MADE = ("window_id", "window_start", "window_end", "revision", "merged_into")
"""The columns of what fires, besides those of `by` and of the aggregates."""

AGGREGATES = ("count", "sum", "mean", "min", "max", "collect", "top")
MAX_TOP = 1000
MAX_WINDOWS_PER_ROW = 1000
"""Sliding windows that one row may be in."""

MAX_DAYS = 366
MAX_SPAN_S = MAX_DAYS * 86_400
MIN_LENGTH_S = 0.001

_FORM = "expected count, or KIND:COLUMN with one of the kinds sum, mean, min, max, collect, count, or top:COLUMN:N"


class AggregateForm(NamedTuple):
    """An aggregate as users write it. column: "" for none; most: how many values `top` keeps."""

    kind: str
    column: str
    most: int = 1


def check_window(params: Mapping[str, Any]) -> None:
    """Raise `InvalidParams`, naming the parameter, for windows that cannot be."""
    given = [name for name in WINDOW_KINDS if params.get(name) is not None]
    if len(given) != 1:
        raise _invalid(f"expected one of tumbling, sliding, session and count, got {', '.join(given) or 'none'}.")
    if params.get("time") is None and given != ["count"]:
        raise _invalid("expected time, the column with the time of a row.", "time")
    for name in ("tumbling", "session", "idle"):
        _check_span(name, params.get(name), MIN_LENGTH_S)
    for name in ("wait", "late"):
        _check_span(name, params.get(name), 0.0)
    _check_sliding(params.get("sliding"))
    by, aggregates = params.get("by") or [], params.get("aggregate")
    keys = [by] if isinstance(by, str) else by if isinstance(by, list) else []
    _check_keys(keys)
    _check_groups(params.get("groups"), keys)
    if isinstance(aggregates, Mapping):
        for name, text in aggregates.items():
            if isinstance(name, str) and isinstance(text, str):
                _check_result_name(f"the aggregate {name!r:.80}", "aggregate", name, keys)
                parse_aggregate(name, text)


def parse_aggregate(name: str, text: str) -> AggregateForm:
    """Read an aggregate such as `top:price:3`. name: its column. Raises `InvalidParams`."""
    kind, _, rest = text.partition(":")
    if kind not in AGGREGATES:
        raise _no_aggregate(name, text, _FORM, did_you_mean(kind, AGGREGATES))
    if kind == "top":
        column, _, most = rest.rpartition(":")
        is_number = most.isascii() and most.isdecimal() and len(most.lstrip("0")) <= len(str(MAX_TOP))
        if not column or not is_number or not 1 <= int(most) <= MAX_TOP:
            raise _no_aggregate(name, text, f"expected top:COLUMN:N, N up to {MAX_TOP}")
        return AggregateForm(kind, column, int(most))
    if not rest and kind != "count":
        raise _no_aggregate(name, text, _FORM)
    return AggregateForm(kind, rest)


def _check_span(name: str, value: object, at_least_s: float) -> float | None:
    """Return the seconds of a time span; None if there is none, or of another type."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    seconds = _seconds(value)
    least = "1ms" if at_least_s else "0s"
    if seconds is None:
        raise _invalid(f"{name}: expected seconds or a time span such as {EXAMPLES}, got {value!r:.80}.", name)
    if not at_least_s <= seconds <= MAX_SPAN_S:
        raise _invalid(f"{name}: expected a time span of {least} to {MAX_DAYS}d, got {_shown(value)}.", name)
    return seconds


def _seconds(value: float | str) -> float | None:
    seconds = seconds_in(value) if isinstance(value, str) else None
    if seconds is not None:
        return seconds
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # an integer beyond all numbers with a fraction
        return math.inf


def _check_sliding(value: object) -> None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return
    length, every = (_check_span("sliding", one, MIN_LENGTH_S) for one in value)
    if length is None or every is None:
        return
    shown = f"{_shown(value[0])} and {_shown(value[1])}"
    if every > length:
        raise _invalid(
            f"sliding: expected the length of windows, then the time from one beginning to the next, which is not "
            f"longer; got {shown}.",
            "sliding",
        )
    if round(every * 1000) * MAX_WINDOWS_PER_ROW < round(length * 1000):
        raise _invalid(
            f"sliding: expected each row to be in at most {MAX_WINDOWS_PER_ROW:,} windows, got windows of {shown} from "
            f"one to the next: {length / every:,.0f}.",
            "sliding",
            "Give a longer time from one to the next.",
        )


def _check_keys(keys: list[Any]) -> None:
    for place, name in enumerate(keys):
        if isinstance(name, str):
            _check_result_name(f"by: the column {name!r:.80}", "by", name, keys[:place])


def _check_groups(groups: object, keys: list[Any]) -> None:
    if isinstance(groups, bool) or not isinstance(groups, int):
        return
    if not 1 <= groups <= MAX_GROUPS:
        raise _invalid(f"groups: expected 1 to {MAX_GROUPS}, got {groups:,}.", "groups")
    if groups > 1 and not keys:
        raise _invalid("groups: expected columns in by, whose values are divided into groups.", "groups")


def _check_result_name(what: str, parameter: str, name: str, others: Any) -> None:
    """Refuse a column of the results that cannot be called so. others: names that are taken too."""
    if name in MADE or name in LINEAGE or name in others:
        raise _invalid(f"{what} has the name of another column of the results.", parameter, "Choose another name.")
    if name.startswith(RESERVED_PREFIX):
        raise _invalid(f"{what}: names that begin with {RESERVED_PREFIX!r} are Batchmill's own.", parameter)


def _shown(value: float | str) -> str:
    return f"{value:.80}" if isinstance(value, str) else f"{_seconds(value):g} s"


def _no_aggregate(name: str, text: str, expected: str, hint: str = "") -> InvalidParams:
    return _invalid(f"aggregate {name!r:.80}: {expected}, got {text!r:.80}.", "aggregate", hint)


def _invalid(message: str, parameter: str = "", hint: str = "") -> InvalidParams:
    return InvalidParams(f"operator 'window': {message}", hint=hint, operator=WINDOW_OPERATOR, parameter=parameter)
