"""`batchmill workers`, `batchmill operators` and `batchmill streams`: what the service has."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.wording import count

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.fleet import BatchChoice, WorkerInfo
    from batchmill.jobs.status import JobStatus
    from batchmill.operators.contract import OperatorInfo


MAX_STREAM_JOBS = 1000


@click.command()
@json_option
@service_options
def workers(client: Client, as_json: bool) -> None:
    """List running workers.

    Where the workers of a pool have an operator in several versions, each is shown with its version and code.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import ago, print_json, print_table
    from batchmill.cli.terminal.tables import Column

    found = client.workers()
    if as_json:
        for worker in found:
            print_json(worker)
        return
    revisions = {(one.pool, name, revision) for one in found for name, revision in one.revisions.items()}
    mixed = Counter((pool, name) for pool, name, _ in revisions)
    rows = [
        (
            one.name,
            one.pool,
            f"{one.device_count} x {one.device_type}" if one.device_count > 1 else one.device_type,
            ", ".join(_operator(one, name, mixed) for name in one.operators),
            f"{len(one.running)} of {one.shards_at_once}",
            ", ".join(map(_batch, one.batches)),
            ago(one.seen_at),
        )
        for one in found
    ]
    columns = (
        Column("WORKER", is_text=True),
        Column("POOL", is_text=True),
        "DEVICE",
        Column("OPERATORS", is_below=True),
        "BUSY",
        Column("BATCHES", is_below=True),
        "SEEN",
    )
    print_table(
        columns, rows, empty="No worker is running. `batchmill worker` starts one, `batchmill up` a complete service."
    )


def _operator(worker: WorkerInfo, name: str, mixed: Counter[tuple[str, str]]) -> str:
    """Name an operator, with its revision if the workers of the pool do not all have the same."""
    return f"{name} {worker.revisions[name]}" if mixed[worker.pool, name] > 1 and name in worker.revisions else name


def _batch(choice: BatchChoice) -> str:
    """Format an operator's latest batch size, the reason for it, and what computes.

    `embed 18 rows, 950 units (overhead), openvino float32, worst cosine 0.999999`
    """
    size = f"{choice.operator} {count(choice.rows)}, {choice.units:.0f} units ({choice.reason})"
    backend = f"{choice.backend} {choice.precision}" if choice.backend else ""
    error = "" if choice.worst_cosine is None else f"worst cosine {choice.worst_cosine:.6f}"
    return ", ".join(part for part in (size, backend, error) if part)


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@json_option
@service_options
def operators(client: Client, name: str | None, as_json: bool) -> None:
    """List operators, or describe one with its parameters.

    The list marks required parameters with *. NAME shows the type, default and description of each parameter. With
    --json, print one JSON object per line, with the parameters as JSON Schema.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    found = client.operators()
    if name is not None:
        found = [_named(found, name)]
    if as_json:
        for operator in found:
            print_json(operator)
    elif name is not None:
        _describe(found[0])
    else:
        rows = [(one.name, ", ".join(one.columns), one.summary, parameters(one.params_schema)) for one in found]
        columns = ("OPERATOR", "COLUMNS", Column("SUMMARY", is_below=True), Column("PARAMETERS", is_below=True))
        print_table(columns, rows, empty="No worker has announced an operator.")


def _named(found: list[OperatorInfo], name: str) -> OperatorInfo:
    from batchmill.errors import NotFound, did_you_mean

    for operator in found:
        if operator.name == name:
            return operator
    raise NotFound(f"no worker has an operator {name!r}.", hint=did_you_mean(name, [one.name for one in found]))


def _describe(operator: OperatorInfo) -> None:
    from batchmill.cli.terminal.console import fields, print_table
    from batchmill.cli.terminal.tables import Column

    fields(
        [
            ("operator", operator.name),
            ("summary", operator.summary),
            ("columns", ", ".join(operator.columns) or "any"),
            ("makes", "unknown" if operator.makes is None else ", ".join(operator.makes) or "no new column"),
            ("version", operator.version),
            ("results", "any number per row" if operator.expands else "one per row"),
        ]
    )
    click.echo()
    required = operator.params_schema.get("required", [])
    rows = [
        (name, _types(field), "required" if name in required else _default(field), _about(field))
        for name, field in operator.params_schema.get("properties", {}).items()
    ]
    columns = ("PARAMETER", "TYPE", "DEFAULT", Column("DESCRIPTION", is_below=True))
    print_table(columns, rows, empty="It has no parameters.")


def _about(field: dict[str, Any]) -> str:
    """Describe a parameter: its own text, its choices and its bounds."""
    import json

    limits = [f"{words} {field[key]}" for key, words in _BOUNDS.items() if key in field]
    choices = [f"one of {', '.join(map(json.dumps, field['enum']))}"] if "enum" in field else []
    return "; ".join(part for part in (field.get("description", "").removesuffix("."), *choices, *limits) if part)


_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "length at least",
    "maxLength": "length at most",
}


def parameters(schema: dict[str, Any]) -> str:
    """Name the parameters of a JSON Schema: `model*, column`."""
    required = schema.get("required", [])
    return ", ".join(f"{name}{'*' if name in required else ''}" for name in schema.get("properties", {}))


def _types(field: dict[str, Any]) -> str:
    return " or ".join(one["type"] for one in (field, *field.get("anyOf", [])) if "type" in one)


def _default(field: dict[str, Any]) -> str:
    import json

    return json.dumps(field["default"]) if "default" in field else ""


@click.command()
@json_option
@service_options
def streams(client: Client, as_json: bool) -> None:
    """List jobs that read streams, and streams of sent rows.

    LAG is the number of rows that wait in the source. WATERMARK is the time up to which events were read. AWAY is why a
    source does not answer; it is tried again. The second table has the streams to which rows were sent with
    `Client.push`, with the bytes of rows that no job has settled.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    live = [job.latest for job in client.live_jobs(MAX_STREAM_JOBS)]
    reading = [status for status in live if status is not None and status.stream is not None]
    sent = client.streams()
    if as_json:
        for one in [*reading, *sent]:
            print_json(one)
        return
    columns = (
        "JOB",
        "STATE",
        Column("STREAM", is_text=True),
        "ROWS",
        "LAG",
        "WATERMARK",
        Column("AWAY", is_below=True),
    )
    print_table(
        columns,
        [_stream_row(status) for status in reading],
        empty="No job reads a stream. docs/how-to/streams.md shows how to submit one.",
    )
    if sent:
        from batchmill.wording import byte_size

        click.echo()
        print_table(
            ("SENT TO", "ROWS", "NOT SETTLED"),
            [(one.name, f"{one.rows:,}", byte_size(one.nbytes)) for one in sent],
            empty="",
        )


def _stream_row(status: JobStatus) -> tuple[str, ...]:
    from batchmill.wording import state

    stream = status.stream
    if stream is None:
        raise AssertionError(f"job {status.id} reads no stream")
    return (
        status.id,
        state(status),
        stream.source,
        f"{status.rows_done + status.rows_dead:,}",
        "?" if stream.lag is None else f"{stream.lag:,}",
        "" if stream.watermark_at is None else _moment(stream.watermark_at),
        stream.away or "",
    )


def _moment(at: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
