"""`batchmill coordinator`: runs the HTTP API and the roles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchmill.settings import CoordinatorSettings


@click.command()
@click.option("--host", help="Address to listen on.  [BATCHMILL_HOST, default 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on, 0 for any free one.  [BATCHMILL_PORT, default 8642]")
@click.option("--redis-url", help="The ledger and broker.  [BATCHMILL_REDIS_URL]")
@click.option("--blob-root", help="Folder or s3:// URI for rows.  [BATCHMILL_BLOB_ROOT]")
@click.option("--roots", help="Folders and URIs that jobs may read and write, with commas.  [BATCHMILL_ROOTS]")
@click.option("--any-port", is_flag=True, hidden=True, help="Take any free port if that one is taken.")
@click.option("--ready-file", type=click.Path(path_type=Path), hidden=True)
def coordinator(
    host: str | None,
    port: int | None,
    redis_url: str | None,
    blob_root: str | None,
    roots: str | None,
    ready_file: Path | None,
    *,
    any_port: bool,
) -> None:
    """Run a coordinator.

    It serves the HTTP API and plans, dispatches, recovers and finishes jobs.

    Several may run over one Redis: one leads, the others serve the API and stand by. Settings come from
    BATCHMILL_… variables; the bearer tokens that are let in from BATCHMILL_TOKENS only.
    """
    from batchmill.settings import CoordinatorSettings

    settings = CoordinatorSettings.load(host=host, port=port, redis_url=redis_url, blob_root=blob_root, roots=roots)
    _refuse_to_start_open(settings)
    _serve(settings, ready_file, any_port=any_port)


def _refuse_to_start_open(settings: CoordinatorSettings) -> None:
    from batchmill.errors import InvalidSettings
    from batchmill_coordinator.api.tenants import parse_tokens

    if not settings.tokens:
        raise InvalidSettings(
            "BATCHMILL_TOKENS is not set, and the API is not served without a token.",
            hint="Set it to one or more secrets, with commas: BATCHMILL_TOKENS=$(openssl rand -hex 24).",
        )
    parse_tokens(settings.tokens)
    if not settings.blob_root:
        raise InvalidSettings(
            "BATCHMILL_BLOB_ROOT is not set.", hint="Set it to a folder or an s3:// URI that all workers share."
        )


def _serve(settings: CoordinatorSettings, ready_file: Path | None, *, any_port: bool) -> None:
    from batchmill.processes.large_blocks import return_large_blocks
    from batchmill.processes.ready_file import kept_port, write_ready_file
    from batchmill.telemetry.logs import announce, configure_logging
    from batchmill_coordinator.api.server import serve

    configure_logging(settings)
    return_large_blocks()

    def report(url: str) -> None:
        announce(settings, "coordinator", f"serving {url}")
        if ready_file is not None:
            write_ready_file(ready_file, url)

    port, any_port = kept_port(ready_file, settings.port, any_port=any_port)
    serve(settings.model_copy(update={"port": port}), report, any_port=any_port)
