"""Values as they are typed for `batchmill submit`: parameters, deadlines, and rows as JSON Lines."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from batchmill.errors import InvalidRequest, InvalidRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d{1,5}(\.\d{1,3})?[smhd])+")


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
        text = str(value)
        if _SPAN.fullmatch(text):
            parts = re.findall(r"([\d.]+)([smhd])", text)
            return sum((timedelta(seconds=float(count) * _UNITS_S[unit]) for count, unit in parts), timedelta())
        try:
            return datetime.fromisoformat(text).astimezone()
        except ValueError:
            self.fail(
                f"expected a time from now such as 30m, 2h or 1h30m, or a date such as 2030-01-31T17:00, got {text!r}.",
                param,
                ctx,
            )


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
