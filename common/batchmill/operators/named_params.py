"""Parameters that name columns or tables, by the `format` in their JSON Schema. Pure.

- `batchmill-column`: a column of the input, which must be there, but may have nulls.
- `batchmill-template`: a text with such columns in braces; `{{` and `}}` are braces.
- `batchmill-table`: a table that the operator reads. The schema's `table` says which other parameters belong to it.
  `job:ID` or `job:ID/STAGE` are the results of an ended job, or of one of its stages, that the service keeps.

What a parameter names is checked when a job is submitted; the version of a table is pinned then.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COLUMN_FORMAT, TEMPLATE_FORMAT, TABLE_FORMAT = "batchmill-column", "batchmill-template", "batchmill-table"


_RESULTS = "job:"


class NamedResults(NamedTuple):
    """The results of a stage of a job that has ended. stage: None: the last one."""

    job: str
    stage: str | None


@dataclass(frozen=True, slots=True)
class NamedTable:
    """A table that a parameter of a job names.

    version: the one that is asked for; None: the newest. version_parameter: the parameter that gives it.
    columns: those that parameters name, each with its parameter.
    """

    parameter: str
    path: str
    version_parameter: str
    version: int | None
    columns: list[tuple[str, str]]


def table_schema(*, version: str, columns: list[str]) -> dict[str, Any]:
    """Return what the JSON Schema of a parameter has besides, if the parameter is the path of a table.

    version: the parameter for its version. columns: the parameters that name columns of it, or lists of them; of
    `"one|other"` the first one that is given counts.
    """
    return {"format": TABLE_FORMAT, "table": {"version": version, "columns": columns}}


def results_named(table: str) -> NamedResults | None:
    """Return the results that the text for a table names; None if it is a path."""
    if not table.startswith(_RESULTS):
        return None
    job, _, stage = table.removeprefix(_RESULTS).partition("/")
    return NamedResults(job, stage or None)


def jobs_named(params: Mapping[str, Any]) -> list[str]:
    """Return the jobs whose results parameters may name, by their values alone."""
    texts = [value for value in params.values() if isinstance(value, str)]
    return [named.job for named in map(results_named, texts) if named is not None]


def has_format(about: Mapping[str, Any], form: str) -> bool:
    """Return whether the schema of a parameter, or an alternative in it, has a format."""
    return any(option.get("format") == form for option in (about, *about.get("anyOf", ())))


def columns_named(schema: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return the columns of the input that parameters name, each with its parameter, unless that is a template."""
    found: list[tuple[str, str | None]] = []
    for name, about, value in _given(schema, params):
        if isinstance(value, str) and has_format(about, COLUMN_FORMAT):
            found.append((value, name))
        elif isinstance(value, str) and has_format(about, TEMPLATE_FORMAT):
            found += [(column, None) for column in _columns_in(value)]
    return found


def tables_named(schema: Mapping[str, Any], params: Mapping[str, Any]) -> list[NamedTable]:
    """Return the tables that parameters name."""
    given = {name: value for name, _, value in _given(schema, params)}
    found = []
    for name, about, value in _given(schema, params):
        if not isinstance(value, str) or not has_format(about, TABLE_FORMAT):
            continue
        about_table = about.get("table", {})
        columns: list[tuple[str, str]] = []
        for names in about_table.get("columns", ()):
            parameter = next((one for one in names.split("|") if given.get(one) is not None), None)
            if parameter is not None:
                values = given[parameter]
                columns += [(one, parameter) for one in (values if isinstance(values, list) else [values])]
        version = about_table.get("version", "version")
        found.append(NamedTable(name, value, version, given.get(version), columns))
    return found


def _given(schema: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Yield each parameter, its schema and its value or default."""
    for name, about in schema.get("properties", {}).items():
        yield name, about, params.get(name, about.get("default"))


def _columns_in(template: str) -> list[str]:
    """Return the columns that a template names; none of one that is malformed, which its operator refuses."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        return []
    return [column for _, column, form, conversion in parsed if column and not form and not conversion]
