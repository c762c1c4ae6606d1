"""`batchmill search` and `batchmill indexes`: what sinks have put into stores."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.source_options import Names
from batchmill.cli.arguments.values import Parameter, params_of
from batchmill.errors import InvalidRequest

if TYPE_CHECKING:
    from batchmill.client import Client

MAX_VALUE_CHARS = 200


@click.command()
@click.argument("index")
@click.argument("text", required=False)
@click.option(
    "--vector",
    "vector_text",
    metavar="VECTOR",
    help="Search for a vector instead: a JSON list of numbers, or a file with one; `-` reads stdin.",
)
@click.option("-k", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rows to find, at most.")
@click.option(
    "--where",
    type=Parameter(),
    multiple=True,
    metavar="COLUMN=VALUE",
    help="A value of a column, or comparisons: year='{\"gte\": 2020}'. Repeatable; all must hold.",
)
@click.option("--columns", type=Names(), help="Columns of the rows to show.  [default: all but the vectors]")
@click.option("--model", help="The model that you expect: an index of another one is refused.")
@json_option
@service_options
def search(
    client: Client,
    index: str,
    text: str | None,
    vector_text: str | None,
    k: int,
    where: tuple[tuple[str, Any], ...],
    columns: list[str] | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Find the rows of INDEX that are nearest to TEXT.

    The text is embedded by the operator and the parameters that made the index. `batchmill indexes` lists the indexes.
    A line has the distance, where smaller is nearer, and the columns of a row.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json

    vector = None if vector_text is None else _vector(vector_text)
    hits = client.search(index, text, vector=vector, k=k, where=params_of(where), columns=columns, model=model)
    if as_json:
        for hit in hits:
            print_json(hit)
        return
    for hit in hits:
        click.echo(f"{hit.distance:.4f}  {_shown(hit.row)}")


@click.command()
@click.option("--forget", metavar="NAME", help="Forget an index; its rows stay in the store.")
@json_option
@service_options
def indexes(client: Client, forget: str | None, as_json: bool) -> None:
    """List the indexes that jobs with a sink have published.

    An index is a table of rows with vectors, which `batchmill search NAME TEXT` searches. INDEX is the kind of graph
    that makes searches fast, or `none`: all rows are compared. MADE BY is the operator that made the vectors, and a
    `-` means that the rows had them, so only a vector can be searched for.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    if forget is not None:
        client.forget_index(forget)
    found = client.indexes()
    if as_json:
        for one in found:
            print_json(one)
        return
    columns = ("NAME", "ROWS", "DIMENSIONS", "INDEX", Column("MADE BY", is_text=True), Column("IN", is_text=True))
    rows = [
        (one.name, f"{one.rows:,}", str(one.dimension), one.index_kind, one.operator or "-", one.sink.to)
        for one in found
    ]
    print_table(
        columns, rows, empty="No job has published an index yet. `batchmill submit … --sink FOLDER.lance` makes one."
    )


def _vector(given: str) -> list[float]:
    expected = f"--vector {given[:80]}: expected a JSON list of numbers, such as '[0.1, 0.2]', or a file with one"
    is_inline = given.lstrip().startswith("[")
    try:
        text = given if is_inline else sys.stdin.read() if given == "-" else Path(given).read_text()
        return [float(number) for number in json.loads(text)]
    except FileNotFoundError as error:
        raise InvalidRequest(f"{expected}; there is no such file.") from error
    except (OSError, ValueError, TypeError) as error:
        raise InvalidRequest(f"{expected}: {error}.") from error


def _shown(row: dict[str, Any]) -> str:
    from batchmill.wording import printable

    text = ", ".join(f"{name}={value}" for name, value in row.items() if value is not None)
    return printable(text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…")
