"""Time spans as users write them: a number of seconds, or text such as `90s`, `1h30m`, `2 d`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
EXAMPLES = "90s, 30m, 2h or 1h30m"
PATTERN = r"^\s*(\d{1,9}(\.\d{1,6})?\s?(ms|s|min|m|h|d)\s?)+$"
"""Of text that is a time span, in the schema of requests. A number without a unit is one of seconds."""

_SPAN = re.compile(PATTERN)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|s|min|m|h|d)")


def seconds_in(text: str) -> float | None:
    """Return the seconds of a time span such as `1h30m`; None for any other text."""
    if _SPAN.fullmatch(text) is None:
        return None
    return math.fsum(float(count) * UNITS_S[unit] for count, unit in _PART.findall(text))


def moment_or_span(text: str) -> datetime | timedelta | None:
    """Return what a deadline as text says: a span from now, or a date in ISO 8601, local unless it has a zone.

    None for any other text, and for a span that no date is away from now.
    """
    seconds = seconds_in(text)
    try:
        return datetime.fromisoformat(text).astimezone() if seconds is None else timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return None


def _read(value: object) -> object:
    if not isinstance(value, str):
        return value
    seconds = seconds_in(value)
    if seconds is not None:
        return seconds
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"expected seconds or a time span such as {EXAMPLES}, got {value!r:.80}") from None


@dataclass(frozen=True)
class Span:
    """Marks a field of seconds that also takes text: `wait_s: Annotated[float, Span(gt=0)]`. The bounds are seconds."""

    gt: float | None = None
    ge: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read text before the number is checked; the schema of requests lists both."""
        number = core_schema.float_schema(gt=self.gt, ge=self.ge, le=self.le)
        either = core_schema.union_schema([number, core_schema.str_schema(pattern=PATTERN)])
        return core_schema.no_info_before_validator_function(_read, number, json_schema_input_schema=either)
