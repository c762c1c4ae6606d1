"""`batchmill workers` and `batchmill operators`: list workers and operators."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.options import json_option, service_options
from batchmill.wording import count

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.job import BatchChoice, WorkerInfo


@click.command()
@json_option
@service_options
def workers(client: Client, as_json: bool) -> None:
    """List running workers.

    Where the workers of a pool have an operator in several versions, each is shown with its version and code.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.console import ago, print_json, print_table

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
    columns = ("WORKER", "POOL", "DEVICE", "OPERATORS", "BUSY", "BATCHES", "SEEN")
    print_table(
        columns, rows, empty="No worker is running. `batchmill worker` starts one, `batchmill up` a complete service."
    )


def _operator(worker: WorkerInfo, name: str, mixed: Counter[tuple[str, str]]) -> str:
    """Name an operator, with its revision if the workers of the pool do not all have the same."""
    return f"{name} {worker.revisions[name]}" if mixed[worker.pool, name] > 1 and name in worker.revisions else name


def _batch(choice: BatchChoice) -> str:
    """Format an operator's latest batch size and the reason for it: `embed 18 rows, 950 units (overhead)`."""
    return f"{choice.operator} {count(choice.rows)}, {choice.units:.0f} units ({choice.reason})"


@click.command()
@json_option
@service_options
def operators(client: Client, as_json: bool) -> None:
    """List the operators that the workers have loaded, with their parameters (required ones marked with *).

    With --json, print one JSON object per line, with the parameters as JSON Schema.
    """
    from batchmill.cli.console import print_json, print_table

    found = client.operators()
    if as_json:
        for operator in found:
            print_json(operator)
        return
    rows = [(one.name, parameters(one.params_schema), ", ".join(one.columns), one.summary) for one in found]
    print_table(("OPERATOR", "PARAMETERS", "COLUMNS", "SUMMARY"), rows, empty="No worker has announced an operator.")


def parameters(schema: dict[str, Any]) -> str:
    """Summarize the parameters of a JSON Schema: `model*: string, column: string = "text"`."""
    required = schema.get("required", [])
    return ", ".join(
        f"{name}{'*' if name in required else ''}{_type(field)}{_default(field)}"
        for name, field in schema.get("properties", {}).items()
    )


def _type(field: dict[str, Any]) -> str:
    kinds = [one["type"] for one in (field, *field.get("anyOf", [])) if "type" in one]
    return f": {' or '.join(kinds)}" if kinds else ""


def _default(field: dict[str, Any]) -> str:
    import json

    return f" = {json.dumps(field['default'])}" if "default" in field else ""
