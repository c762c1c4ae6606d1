"""`batchmill up`: the embedded service in the foreground."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import FrameType

    from batchmill.embedded.service import EmbeddedService


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes on each device."
)
@click.option("--devices", default="cpu", show_default=True, help="Devices to use, as in `batchmill worker`.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder.  [env: BATCHMILL_DATA_DIR; default: ~/.local/share/batchmill]",
)
@click.option(
    "--operators", multiple=True, metavar="MODULE", help="Module with operators that the workers import; repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the API listens on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the API.  [default: any free one]")
@click.option(
    "--tied", is_flag=True, hidden=True, help="Print URL and token as JSON; stop at the end of standard input."
)
def up(
    workers: int,
    devices: str,
    data_dir: Path | None,
    operators: tuple[str, ...],
    host: str,
    port: int,
    *,
    tied: bool,
) -> None:
    """Run a complete service on this machine: Valkey, a coordinator and workers.

    Commands in other terminals connect to it automatically: `batchmill jobs`. Ctrl-C stops it; unfinished jobs resume
    when it is started again with the same data folder.
    """
    from batchmill.embedded.service import EmbeddedService, EmbeddedSettings
    from batchmill.settings import default_data_dir

    folder = (data_dir or default_data_dir()).expanduser().absolute()
    service = EmbeddedService(EmbeddedSettings(folder, workers, operators, host, port, devices))
    _stop_on_signals(service)
    with service:
        _announce(service, folder, workers, tied=tied)
        if tied:
            threading.Thread(target=_stop_at_end_of_input, args=(service,), daemon=True).start()
        service.watch()


def _stop_on_signals(service: EmbeddedService) -> None:
    def stop(number: int, _: FrameType | None) -> None:
        if service.record is None:  # still starting
            sys.exit(128 + number)
        service.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _announce(service: EmbeddedService, folder: Path, workers: int, *, tied: bool) -> None:
    from batchmill.wording import count

    record = service.record
    assert record is not None  # noqa: S101  # it has started
    if tied:
        click.echo(json.dumps({"url": record.url, "token": record.token}))
        return
    click.echo(f"Batchmill is running at {record.url} with {count(workers, 'worker')}.")
    click.echo(f"Data and logs: {folder}")
    click.echo("In another terminal: batchmill submit echo FILE.jsonl --wait   (batchmill --help lists more)")
    click.echo("Ctrl-C stops it; unfinished jobs resume at the next start.")


def _stop_at_end_of_input(service: EmbeddedService) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    service.ask_to_stop()
