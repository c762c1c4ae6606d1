"""`batchmill flower`: runs Flower over the service's broker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchmill.settings import FlowerSettings


@click.command()
@click.option("--host", help="Address to listen on.  [BATCHMILL_FLOWER_HOST, default 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on, 0 for any free one.  [BATCHMILL_FLOWER_PORT, default 5555]")
@click.option("--redis-url", help="The ledger and broker.  [BATCHMILL_REDIS_URL]")
@click.option("--any-port", is_flag=True, hidden=True, help="Take any free port if that one is taken.")
@click.option("--ready-file", type=click.Path(path_type=Path), hidden=True)
def flower(
    host: str | None, port: int | None, redis_url: str | None, ready_file: Path | None, *, any_port: bool
) -> None:
    """Run Flower, a web page of attempts and workers.

    Without a Redis in options or environment, it shows the service that `batchmill up` runs on this machine, with the
    user `batchmill` and the token of that service as the password.

    It asks for a name and a password, BATCHMILL_FLOWER_USERS=name:password, and does not start without. It only
    looks on, unless BATCHMILL_FLOWER_READ_ONLY=false; what it knows is in memory, of the last
    BATCHMILL_FLOWER_MAX_TASKS tasks.
    """
    from batchmill.embedded.folder import join_running_service
    from batchmill.processes.ready_file import kept_port, write_ready_file
    from batchmill.settings import FlowerSettings
    from batchmill.telemetry.logs import announce, configure_logging

    running = join_running_service({"redis_url": redis_url})
    if running is not None:
        os.environ.setdefault("BATCHMILL_FLOWER_USERS", f"batchmill:{running.token}")
    settings = FlowerSettings.load(flower_host=host, flower_port=port, redis_url=redis_url)
    _refuse_to_start_open(settings)
    _require_flower()
    from batchmill_coordinator.flower.server import serve_flower

    configure_logging(settings)

    def report(url: str) -> None:
        announce(settings, "flower", f"serving {url}")
        if ready_file is not None:
            write_ready_file(ready_file, url)

    port, any_port = kept_port(ready_file, settings.flower_port, any_port=any_port)
    serve_flower(settings.model_copy(update={"flower_port": port}), report, any_port=any_port)


def _refuse_to_start_open(settings: FlowerSettings) -> None:
    from batchmill.errors import InvalidSettings

    if not settings.flower_users:
        raise InvalidSettings(
            "BATCHMILL_FLOWER_USERS is not set, and Flower is not served without a password.",
            hint="Set it to one or more name:password, with commas: BATCHMILL_FLOWER_USERS=me:$(openssl rand -hex 24).",
        )
    for number, user in enumerate(settings.flower_users, start=1):
        name, _, password = user.partition(":")
        if not name or not password:
            raise InvalidSettings(f"BATCHMILL_FLOWER_USERS: entry {number} is not of the form name:password.")


def _require_flower() -> None:
    from importlib.util import find_spec

    from batchmill.errors import MissingExtra

    if find_spec("flower") is None:
        raise MissingExtra(
            "`batchmill flower` needs Flower, which is not installed.",
            hint="Install it with: pip install 'batchmill[flower]'.",
        )
