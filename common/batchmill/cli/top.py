"""`batchmill top`: jobs, pools and workers, live on a terminal or once when piped."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.values import SecondsOrSpan

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import FrameType

    from rich.console import RenderableType

    from batchmill.cli.terminal.keyboard import Keyboard
    from batchmill.cli.terminal.overview import Overview
    from batchmill.client import Client

INTERVAL_S = 2.0
KEY_INTERVAL_S = 0.05  # between two checks for a key or an answer


@click.command()
@click.option(
    "--interval",
    metavar="TIME",
    type=SecondsOrSpan(0.2, 3600),
    help=f"Refresh interval.  [default: {INTERVAL_S:g} on a terminal, else show once]",
)
@click.option(
    "--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="Maximum number of jobs."
)
@json_option
@service_options
def top(client: Client, interval: float | None, limit: int, as_json: bool) -> None:
    """Watch jobs, pools and workers.

    Shows speed, time left, queued work, devices and batch sizes. A terminal refreshes every few seconds until q or
    Ctrl-C. When piped, or with --json as one object per line, the snapshot is printed once, or repeatedly with
    --interval.
    """
    from batchmill.cli.terminal.overview import snapshot

    if sys.stdout.isatty() and not as_json:
        _watch(client, interval or INTERVAL_S, limit)
        return
    try:
        while True:
            _print(snapshot(client, limit), as_json=as_json)
            if interval is None:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        return


def _print(overview: Overview, *, as_json: bool) -> None:
    from batchmill.cli.terminal.console import print_json, print_table

    if as_json:
        print_json(overview)
    else:
        for number, table in enumerate(overview.tables()):
            if number:
                click.echo()
            print_table(table.columns, table.rows, empty=table.empty)
    sys.stdout.flush()


def _watch(client: Client, interval_s: float, limit: int) -> None:
    """Refresh until q or Ctrl-C. Restores the terminal in every case.

    Another thread asks the service, so that a service that does not answer cannot delay the exit.
    """
    from concurrent.futures import ThreadPoolExecutor

    from rich.console import Console
    from rich.live import Live

    from batchmill.cli.terminal.keyboard import Keyboard

    signal.signal(signal.SIGTERM, _leave)
    console, asking = Console(), ThreadPoolExecutor(1)
    with Keyboard(sys.stdin) as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                shown = asking.submit(screen, client, limit, console.size.width, console.size.height)
                if not _is_ready(shown, keyboard):
                    return
                live.update(shown.result(), refresh=True)
                if _quits(keyboard, interval_s):
                    return
        except KeyboardInterrupt:
            return
        finally:
            asking.shutdown(wait=False, cancel_futures=True)


def _is_ready(shown: Future[RenderableType], keyboard: Keyboard) -> bool:
    """Wait for a screen; False if the user quits meanwhile."""
    while not shown.done():
        if _quits(keyboard, KEY_INTERVAL_S):
            return False
    return True


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def screen(client: Client, limit: int, width: int, height: int) -> RenderableType:
    """Return the content for a terminal of `width` cells and `height` lines."""
    from rich.text import Text

    from batchmill.cli.terminal.overview import snapshot
    from batchmill.errors import ServiceUnavailable

    try:
        overview = snapshot(client, limit)
    except ServiceUnavailable as error:
        return Text(f"{error}\n\nRetrying; q to quit.", style="red")
    content = Text(no_wrap=True, overflow="ellipsis")
    content.append(f"{overview.headline()}    q to quit\n", style="bold")
    for title, header, lines in overview.lines(width, height):
        content.append(f"{title}\n", style="italic")
        content.append(f"{header}\n", style="bold")
        content.append("".join(f"{line}\n" for line in lines))
    content.right_crop(1)
    return content


def _quits(keyboard: Keyboard, seconds: float) -> bool:
    """Wait for up to `seconds`; return True as soon as the user asks to quit."""
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        if keyboard.pressed(left) in ("q", "Q", "\x1b", "\x03", "\x04"):
            return True
    return False
