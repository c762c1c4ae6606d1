"""`batchmill up` and `down`: the embedded service, in the foreground or detached."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.cli import BAD_INPUT, FAILED, print_error
from batchmill.cli.arguments.values import WorkerCount

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import FrameType

    from batchmill.embedded.service import EmbeddedService, EmbeddedSettings
    from batchmill.errors import ServiceUnavailable
    from batchmill.storage.served_models import ServedModel

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder.  [env: BATCHMILL_DATA_DIR; default: ~/.local/share/batchmill]",
)


@click.command()
@click.option(
    "--workers",
    type=WorkerCount(),
    metavar="NUMBER",
    default=1,
    show_default=True,
    help="Worker processes on each device; auto: as many as there is work for, up to one for each core.",
)
@click.option("--devices", default="cpu", show_default=True, help="Devices to use, as in `batchmill worker`.")
@data_dir_option
@click.option(
    "--operators", multiple=True, metavar="MODULE", help="Module with operators that the workers import; repeatable."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address the API listens on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port of the API.  [default: 8642 if it is free, else any free one]"
)
@click.option("--flower", "with_flower", is_flag=True, help="Run Flower too, at port 5555 if it is free.")
@click.option("--detach", "-d", is_flag=True, help="Return once it runs; `batchmill down` stops it.")
@click.option("--detached", is_flag=True, hidden=True, help="What `--detach` starts in the background.")
@click.option(
    "--tied", is_flag=True, hidden=True, help="Print URL and token as JSON; stop at the end of standard input."
)
def up(
    workers: int,
    devices: str,
    data_dir: Path | None,
    operators: tuple[str, ...],
    host: str,
    port: int | None,
    with_flower: bool,
    detach: bool,
    *,
    detached: bool,
    tied: bool,
) -> None:
    """Run a complete service on this machine.

    It consists of Valkey, a coordinator and workers. Commands in other terminals connect to it automatically:
    `batchmill jobs`. Ctrl-C stops it; unfinished jobs resume when it is started again with the same data folder.
    """
    from batchmill.embedded.service import EmbeddedSettings

    settings = EmbeddedSettings(data_folder(data_dir), workers, operators, host, port, devices, with_flower)
    run_service(settings, detach=detach, detached=detached, tied=tied)


def run_service(settings: EmbeddedSettings, *, detach: bool, detached: bool, tied: bool) -> None:
    """Run a service until it is asked to stop; with `detach`, return once it runs."""
    from batchmill.embedded.service import EmbeddedService
    from batchmill.errors import ServiceUnavailable

    folder = settings.data_dir
    if detach:
        _detach(folder)
        return
    service = EmbeddedService(settings)
    _stop_on_signals(service)
    if not tied:
        click.echo("Starting Valkey, the coordinator and the workers …", err=True)
    try:
        service.start()
    except ServiceUnavailable as error:
        _report_failed_start(error)
        raise click.exceptions.Exit(BAD_INPUT) from error
    try:
        if settings.models:
            _check_models(service, settings.models)
        _announce(service, settings, tied=tied, detached=detached)
        if settings.models and not tied:
            threading.Thread(target=_report_models, args=(service, settings), daemon=True).start()
        if tied:
            threading.Thread(target=_stop_at_end_of_input, args=(service,), daemon=True).start()
        service.watch()
        if not tied:
            click.echo("Stopping: workers finish their running batches …", err=True)
    finally:
        service.stop()


@click.command()
@data_dir_option
def down(data_dir: Path | None) -> None:
    """Stop the service that `batchmill up` runs on this machine.

    Running batches end first; unfinished jobs resume at the next start.
    """
    from batchmill.embedded.detached import stop_service

    folder = data_folder(data_dir)
    click.echo("Stopped." if stop_service(folder) else f"No service runs over {folder}.")


def data_folder(data_dir: Path | None) -> Path:
    """Return the data folder, by default that of the settings."""
    from batchmill.settings import default_data_dir

    return (data_dir or default_data_dir()).expanduser().absolute()


def _detach(folder: Path) -> None:
    """Start this command line again in the background, without `--detach`."""
    from batchmill.embedded.detached import start_detached

    arguments = ["--detached" if part in ("--detach", "-d") else part for part in sys.argv[1:]]
    started = start_detached(arguments, folder)
    if started.record is None:
        click.echo(started.output, err=True, nl=False)
        raise click.exceptions.Exit(started.code or FAILED)
    click.echo(started.output, nl=False)


def _report_failed_start(error: ServiceUnavailable) -> None:
    """Print why the service did not start, and the lines that the process in question logged in this start."""
    from batchmill.wording import printable

    print_error(str(error), BAD_INPUT)
    for line in error.details.get("log", ()):
        click.echo(f"    {printable(line)}", err=True)


def _stop_on_signals(service: EmbeddedService) -> None:
    def stop(number: int, _: FrameType | None) -> None:
        if service.record is None:  # still starting
            sys.exit(128 + number)
        service.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _check_models(service: EmbeddedService, models: Mapping[str, ServedModel]) -> None:
    """Raise `UnknownOperator` for a model whose operator the service's workers do not have."""
    from batchmill.client import Client

    assert service.record is not None  # noqa: S101  # it has started
    with Client(service.record.url, service.record.token) as client:
        known = {name for worker in client.workers() for name in worker.operators}
    refuse_unknown_operators(models, {name for name in known if not name.startswith("batchmill.")})


def refuse_unknown_operators(models: Mapping[str, ServedModel], known: Collection[str]) -> None:
    """Raise `UnknownOperator` for a model of an operator that is not among the known ones. Pure."""
    from batchmill.errors import UnknownOperator, did_you_mean

    for name, model in models.items():
        if model.operator not in known:
            nearest = did_you_mean(model.operator, known)
            raise UnknownOperator(
                f"the model {name!r} cannot be served: no worker has an operator {model.operator!r}.",
                hint=f"{nearest} The module of an operator of your own is given with --operators.".lstrip(),
            )


def _announce(service: EmbeddedService, settings: EmbeddedSettings, *, tied: bool, detached: bool) -> None:
    from batchmill.embedded.service import FLOWER_USER
    from batchmill.wording import count

    record, folder, workers = service.record, settings.data_dir, settings.workers
    assert record is not None  # noqa: S101  # it has started
    if tied:
        click.echo(json.dumps({"url": record.url, "token": record.token}))
        return
    processes = count(workers, "worker") if workers else "as many workers as there is work for"
    click.echo(f"Batchmill is running at {record.url} with {processes}.")
    if service.flower_url:
        click.echo(f"Flower: {service.flower_url} (user {FLOWER_USER}, password in {folder / 'token'})")
    if settings.models:
        click.echo(f"OpenAI base URL: {record.url}/v1 (API key in {folder / 'token'}): {', '.join(settings.models)}")
    click.echo(f"Data and logs: {folder}")
    click.echo("In another terminal: batchmill submit echo FILE.jsonl --wait   (batchmill --help lists more)")
    stop = "`batchmill down`" if detached else "Ctrl-C or `batchmill down`"
    click.echo(f"{stop} stops it; unfinished jobs resume at the next start.")


def _report_models(service: EmbeddedService, settings: EmbeddedSettings) -> None:
    """Print when each model is ready, and why one cannot be loaded."""
    from batchmill.client.connection.service import ServiceAddress
    from batchmill.embedded.model_states import follow_models
    from batchmill.wording import printable

    def report(name: str, error: str | None) -> None:
        text = f"Model {name} is ready." if error is None else f"Model {name} cannot be loaded: {error}"
        click.echo(printable(text), err=error is not None)

    record = service.record
    assert record is not None  # noqa: S101  # it has started
    follow_models(ServiceAddress(record.url, record.token), settings.models, report)


def _stop_at_end_of_input(service: EmbeddedService) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    service.ask_to_stop()
