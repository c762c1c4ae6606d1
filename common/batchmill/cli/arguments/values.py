"""Values as they are typed for `batchmill submit`: parameters, deadlines, and rows as JSON Lines."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import TypeAdapter, ValidationError

from batchmill.durations import EXAMPLES, Span, moment_or_span
from batchmill.errors import InvalidRequest, InvalidRows
from batchmill.settings import AUTO_SLOTS
from batchmill.wording import fault_of

MAX_WORKERS = 256

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Parameter(click.ParamType[tuple[str, Any]]):
    """`name=value`; the value is parsed as JSON, else taken as text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Split a parameter into name and value."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"expected NAME=VALUE, got {value!r}.", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


class Deadline(click.ParamType[datetime | timedelta]):
    """A time from now (`90s`, `30m`, `1h30m`, `2d`), or a date in ISO 8601, in local time unless it has a zone."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | timedelta:
        """Parse a date or a time span."""
        found = moment_or_span(str(value))
        if found is None:
            self.fail(
                f"expected a time from now such as {EXAMPLES}, or a date such as 2030-01-31T17:00, got {value!r}.",
                param,
                ctx,
            )
        return found


class WorkerCount(click.ParamType[int]):
    """A number of processes on each device; `auto` is 0: as many as their pool needs."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a number, or `auto`."""
        if value == AUTO_SLOTS:
            return 0
        if isinstance(value, int):
            return value
        if not str(value).isdigit() or not 1 <= int(value) <= MAX_WORKERS:
            self.fail(f"expected {AUTO_SLOTS} or a number from 1 to {MAX_WORKERS}, got {value!r}.", param, ctx)
        return int(value)


class SecondsOrSpan(click.ParamType[float]):
    """A number of seconds, or a time span (`90s`, `1h30m`)."""

    name = "time"

    def __init__(self, least: float = 0.0, most: float | None = None) -> None:
        self._field = TypeAdapter[float](Annotated[float, Span(ge=least, le=most)])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a number or a time span, and check its bounds."""
        try:
            return self._field.validate_python(value)
        except ValidationError as error:
            self.fail(fault_of(error.errors()[0]), param, ctx)


def params_of(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """The parameters by name. Raises `InvalidRequest` for one that is given twice."""
    params: dict[str, Any] = {}
    for name, value in pairs:
        if name in params:
            raise InvalidRequest(f"the parameter {name!r} is given twice.", hint="Give each --param once.")
        params[name] = value
    return params


def params_of_file(path: Path | None) -> dict[str, Any]:
    """The parameters in a JSON file, none without one. Raises `InvalidRequest` for a file that has no JSON object."""
    if path is None:
        return {}
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path}: expected a JSON object with parameters ({error}).") from error
    if not isinstance(params, dict):
        raise InvalidRequest(f"{path}: expected a JSON object with parameters, got a {type(params).__name__}.")
    return params


def json_lines(lines: Iterable[bytes], what: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON Lines, without blank lines. Raises `InvalidRows`, naming a line that is not JSON."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidRows(
                f"{what}, line {number}: expected a JSON object, got invalid JSON ({error}).", line=number
            ) from error
        if not isinstance(row, dict):
            raise InvalidRows(
                f"{what}, line {number}: expected a JSON object, got a {type(row).__name__}.", line=number
            )
        yield row
