"""`batchmill info`: what is installed here, and the service that commands use."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.arguments.options import service_options

if TYPE_CHECKING:
    from batchmill.client import Client


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print only JSON to stdout.")
@service_options
def info(client: Client, as_json: bool) -> None:
    """Show versions, the service, its workers and operators."""
    import json

    from batchmill.cli.terminal.console import fields

    found = _found(client)
    if as_json:
        click.echo(json.dumps(found))
    else:
        fields((name.replace("_", " "), _text(value)) for name, value in found.items())


def _found(client: Client) -> dict[str, Any]:
    from batchmill.settings import default_data_dir

    workers = client.workers()
    return {
        "version": version("batchmill"),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "pyarrow": version("pyarrow"),
        "service": client.url,
        "data_folder": str(default_data_dir()),
        "pools": sorted({worker.pool for worker in workers}),
        "workers": len(workers),
        "devices": sorted({worker.device_type for worker in workers}),
        "operators": sorted(operator.name for operator in client.operators()),
        "live_jobs": len(client.live_jobs(1000)),
    }


def _text(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)
