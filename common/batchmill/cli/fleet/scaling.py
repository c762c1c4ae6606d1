"""`batchmill pools` and `batchmill autoscale`: how many workers pools need, and a command that starts or stops them."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.values import SecondsOrSpan

if TYPE_CHECKING:
    from types import FrameType

    from batchmill.client import Client
    from batchmill.fleet import PoolScale, PoolStatus, PoolUsage

INTERVAL_S = 15.0
MAX_MACHINES = 10_000


@click.command()
@click.option("--report", is_flag=True, help="Show what their workers cost, and what would have been enough.")
@click.option(
    "--days", type=click.IntRange(1, 14), default=7, show_default=True, help="Of the report: today and the days before."
)
@json_option
@service_options
def pools(client: Client, report: bool, days: int, as_json: bool) -> None:
    """List pools, and how many workers they need.

    A pool is a group of workers; jobs name theirs, or run in `default`. WANTED is how many workers would do what is
    left in the target time of the pool, and WHY the reason. RUNNING is the number of shards that run, of those that
    the workers take at once; WAITING is the number of other shards. DRAIN is how long the workers that are there need.

    With --report, ENOUGH is the worker hours that the work needed, BUSY those in which devices worked, and PEAK the
    most workers that were there, of the most that were wanted.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    if report:
        _report(client.pool_usage(days), as_json=as_json)
        return
    found = client.pools()
    if as_json:
        for pool in found:
            print_json(pool)
        return
    columns = (
        *(Column("POOL", is_text=True), "WORKERS", "WANTED", "RUNNING", "WAITING", "ROWS LEFT", "DRAIN"),
        Column("WHY", is_below=True),
    )
    print_table(columns, [_row(pool) for pool in found], empty="No pool has workers or jobs.")


def _report(found: list[PoolUsage], *, as_json: bool) -> None:
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column
    from batchmill.wording import hours

    if as_json:
        for pool in found:
            print_json(pool)
        return
    rows = [
        (
            pool.pool,
            hours(pool.worker_hours),
            hours(pool.enough_hours),
            hours(pool.busy_hours),
            f"{pool.most_workers} of {pool.most_wanted}",
            f"{pool.cost:.2f} {pool.currency}",
            f"{pool.cost_enough:.2f} {pool.currency}",
            pool.advice,
        )
        for pool in found
    ]
    columns = (
        *(Column("POOL", is_text=True), "WORKER H", "ENOUGH", "BUSY", "PEAK", "COST", "OF ENOUGH"),
        Column("ADVICE", is_below=True),
    )
    print_table(columns, rows, empty="No pool has had workers or jobs.")


def _row(pool: PoolStatus) -> tuple[str, ...]:
    from batchmill.wording import duration

    scale = pool.scale
    return (
        pool.name,
        str(pool.workers),
        "" if scale is None else str(scale.workers_wanted),
        f"{pool.shards_running} of {pool.capacity}",
        str(pool.shards_queued + pool.shards_waiting),
        f"{pool.rows_waiting:,}",
        "" if scale is None or scale.drain_s is None else duration(scale.drain_s),
        "" if scale is None else scale.why,
    )


class ScaleCommand(click.ParamType["list[str]"]):
    """A command in which `{n}` is replaced by the number of machines."""

    name = "command"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split the command as a shell would."""
        try:
            parts = shlex.split(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is no command: {error}.", param, ctx)
        if not any("{n}" in part for part in parts[1:]):
            self.fail(f"expected {{n}} in the arguments of the command, got {value!r}.", param, ctx)
        return parts


@click.command()
@click.option("--pool", default="default", show_default=True, help="Pool to scale.")
@click.option(
    "--min", "least", type=click.IntRange(0, MAX_MACHINES), default=0, show_default=True, help="Minimum of {n}."
)
@click.option("--max", "most", type=click.IntRange(1, MAX_MACHINES), required=True, help="Maximum of {n}.")
@click.option(
    "--exec",
    "command",
    metavar="COMMAND",
    type=ScaleCommand(),
    required=True,
    help="Run this when the number changes, with {n} replaced by it. No shell runs it.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 1024),
    help="Workers on each of the machines (or containers) that {n} counts.  [default: as seen]",
)
@click.option(
    "--interval",
    metavar="TIME",
    type=SecondsOrSpan(0.2, 3600),
    default=INTERVAL_S,
    show_default=True,
    help="Time between two questions.",
)
@service_options
def autoscale(
    client: Client, pool: str, least: int, most: int, command: list[str], slots: int | None, interval: float
) -> None:
    """Start and stop workers of a pool by a command.

    Asks the service how many workers the pool needs, keeps the largest number for as long as a worker
    takes to start, and runs the command when the number changes, and once at the beginning. While the service does not
    answer, or the command fails, nothing changes; both are tried again. The token for metrics is enough.

    \b
    batchmill autoscale --pool gpu --max 8 \\
        --exec 'docker compose up -d --scale worker={n}'
    """
    if least > most:
        raise click.UsageError(f"--min {least} is above --max {most}.")
    signal.signal(signal.SIGTERM, _leave)
    Autoscaler(client, pool, least, most, command, slots).run(interval)


class Autoscaler:
    """Asks for the number that a pool needs, and has a command bring it about."""

    def __init__(
        self, client: Client, pool: str, least: int, most: int, command: list[str], slots: int | None = None
    ) -> None:
        from batchmill.held_need import HeldNeed

        self._client = client
        self._pool = pool
        self._least = least
        self._most = most
        self._command = command
        self._slots = slots
        self._held = HeldNeed()
        self._present: int | None = None  # what the command was run with last

    def run(self, interval_s: float) -> None:
        """Ask again and again."""
        while True:
            self.step(time.monotonic())
            time.sleep(interval_s)

    def step(self, now_s: float) -> None:
        """Ask once, and run the command if the number has changed. now_s: of a clock that does not go back."""
        from batchmill.errors import BatchmillError, NotFound, Unauthorized

        try:
            scale = self._client.scale(self._pool)
        except (NotFound, Unauthorized):
            raise
        except BatchmillError as error:
            _say(f"the number stays as it is: {error}")
            return
        number = min(max(self._held.note(self._machines(scale), now_s, scale.start_s), self._least), self._most)
        if number == self._present:
            return
        _say(f"{self._pool}: {_change(self._present, number)}; {scale.workers_wanted} workers wanted: {scale.why}")
        if self._execute(number):
            self._present = number

    def _machines(self, scale: PoolScale) -> int:
        return -(-scale.workers_wanted // self._slots) if self._slots else scale.machines_wanted

    def _execute(self, number: int) -> bool:
        line = [part.replace("{n}", str(number)) for part in self._command]
        try:
            code = subprocess.run(line, check=False, stdin=subprocess.DEVNULL).returncode  # noqa: S603  # the user's own
        except OSError as error:
            _say(f"{line[0]} cannot be run ({error.strerror}); it is tried again")
            return False
        if code:
            _say(f"{shlex.join(line)} ended with exit code {code}; it is tried again")
        return code == 0


def _change(before: int | None, number: int) -> str:
    return str(number) if before is None else f"{before} to {number}"


def _say(text: str) -> None:
    from batchmill.wording import printable

    click.echo(f"{time.strftime('%H:%M:%S')} {printable(text)}", err=True)


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
