"""`batchmill cache`: statistics of the row cache; clear it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client


@click.command()
@click.option("--clear", is_flag=True, help="Clear the row cache first.")
@json_option
@service_options
def cache(client: Client, clear: bool, as_json: bool) -> None:
    """Show row cache statistics. Jobs of `submit --cache` share the cache.

    Hits and misses count the rows that such jobs looked up since the cache was last cleared.
    """
    from batchmill.cli.terminal.console import fields, print_json

    if clear:
        client.clear_cache()
    stats = client.cache()
    if as_json:
        print_json(stats)
        return
    asked = stats.hits + stats.misses
    share = f" ({stats.hits / asked:.0%})" if asked else ""
    fields(
        [
            ("rows", f"{stats.entries:,}"),
            ("bytes", f"{stats.bytes:,} in {stats.segments:,} segments"),
            ("hits", f"{stats.hits:,} of {asked:,}{share}"),
            ("evicted", f"{stats.evicted:,}"),
        ]
    )
