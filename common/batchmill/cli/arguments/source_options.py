"""The options of `batchmill submit` that say how files are read: one for each field of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from batchmill.errors import InvalidRequest
from batchmill.jobs.files import SourceFormat

if TYPE_CHECKING:
    from collections.abc import Callable

_DIALECT = ("delimiter", "quote", "escape", "null_values", "encoding")
_PART = ("limit", "sample", "seed", "table_version")
_ESCAPES = {"\\t": "\t", "tab": "\t"}


class Names(click.ParamType[list[str]]):
    """Names separated by commas."""

    name = "a,b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:  # noqa: ARG002  # click's
        """The names."""
        return [name.strip() for name in str(value).split(",") if name.strip()]


class ColumnType(click.ParamType[tuple[str, str]]):
    """`column=type`."""

    name = "column=type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The column and its type."""
        column, equals, kind = str(value).partition("=")
        if not column or not equals or not kind:
            self.fail(f"expected COLUMN=TYPE, got {value!r}.", param, ctx)
        return column, kind


class SampleSize(click.ParamType[float]):
    """A share of the rows, or a number of them."""

    name = "share|rows"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share as a float, or the number as an int."""
        try:
            size: float = int(value) if str(value).isdecimal() else float(value)
        except ValueError:
            size = 0
        if not (size >= 1 if isinstance(size, int) else 0 < size < 1):
            self.fail(f"expected a share such as 0.01, or a number of rows, got {value!r}.", param, ctx)
        return size


_OPTIONS = (
    click.option(
        "--format",
        type=click.Choice(get_args(SourceFormat)),
        help="The sources' format, if their endings do not give it.",
    ),
    click.option("--columns", type=Names(), help="Read only these columns of the sources."),
    click.option("--schema", type=ColumnType(), multiple=True, help="An Arrow type of a column of CSV or JSON Lines."),
    click.option("--json-text", type=Names(), help="Columns of JSON Lines to read as JSON text."),
    click.option("--delimiter", metavar="CHAR", help="Between the values of CSV; `tab` for a tab.  [default: ,]"),
    click.option("--quote", metavar="CHAR", help='Around values of CSV; empty for none.  [default: "]'),
    click.option("--escape", metavar="CHAR", help="Before a character of CSV that loses its meaning."),
    click.option("--header", type=Names(), help="The names of the columns of CSV files without a header."),
    click.option("--no-header", is_flag=True, help="CSV files have no header: columns are column_0, column_1, …"),
    click.option("--null-values", type=str, metavar="A,B", help="Words of CSV that mean no value, in text too."),
    click.option("--encoding", help="The encoding of CSV.  [default: utf-8]"),
    click.option(
        "--missing-columns", type=click.Choice(["fail", "null"]), help="What a column that a file lacks is there."
    ),
    click.option("--no-hive-columns", is_flag=True, help="Read no columns from folders named COLUMN=VALUE."),
    click.option("--path-column", metavar="NAME", help="Add a column with the file that a row is from."),
    click.option(
        "--on-bad-line",
        type=click.Choice(["fail", "dead"]),
        help="Whether a line that cannot be read fails the job or becomes a dead letter.  [default: fail]",
    ),
    click.option(
        "--max-file-bytes",
        type=click.IntRange(1, 2**31 - 1),
        help="With --format binary: a larger file becomes a dead letter.  [default: 64 MiB]",
    ),
    click.option(
        "--table-version",
        type=click.IntRange(min=0),
        metavar="N",
        help="Of a Delta table, or the id of a snapshot of an Iceberg table.  [default: the newest]",
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="ROWS", help="Read only the first rows."),
    click.option(
        "--sample", type=SampleSize(), help="Read only a random choice of rows: 0.01 is 1 %, 1000 is 1,000 rows."
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**63 - 1), help="Of --sample: the same rows each time.  [default: 0]"
    ),
)
FIELDS = (
    "format",
    "columns",
    "schema",
    "json_text",
    *_DIALECT,
    "header",
    "no_header",
    "missing_columns",
    "no_hive_columns",
    "path_column",
    "on_bad_line",
    "max_file_bytes",
    *_PART,
)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def source_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options out of all options of a command, and return the fields of a source that were given."""
    given = {name: options.pop(name) for name in FIELDS}
    fields = {name: given[name] for name in ("format", "columns", "json_text", "missing_columns", "path_column")}
    fields |= {name: given[name] for name in ("on_bad_line", "max_file_bytes", *_PART)}
    fields["schema"] = dict(given["schema"]) or None
    fields["hive_columns"] = False if given["no_hive_columns"] else None
    fields["csv"] = _dialect(given) or None
    return {name: value for name, value in fields.items() if value is not None}


def _dialect(given: dict[str, Any]) -> dict[str, Any]:
    if given["header"] and given["no_header"]:
        raise InvalidRequest("--header and --no-header exclude each other.", hint="Give one of them.")
    dialect = {name: given[name] for name in _DIALECT if given[name] is not None}
    if "delimiter" in dialect:
        dialect["delimiter"] = _ESCAPES.get(dialect["delimiter"], dialect["delimiter"])
    if dialect.get("quote") == "":
        dialect["quote"] = None
    if "null_values" in dialect:
        dialect["null_values"] = dialect["null_values"].split(",")
    if given["header"] or given["no_header"]:
        dialect["header"] = given["header"] or False
    return dialect
