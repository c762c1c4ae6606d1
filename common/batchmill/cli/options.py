"""The options that all commands of the client share, and the client they lead to."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.client import Client


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--url` and `--token`; the command gets a `client`, closed when it returns."""

    @click.option("--url", metavar="URL", help="The service  [env: BATCHMILL_URL; default: `batchmill up` here]")
    @click.option(
        "--token", metavar="TOKEN", help="Its bearer token; better kept in the environment  [env: BATCHMILL_TOKEN]"
    )
    @wraps(command)
    def with_client(*args: Any, url: str | None, token: str | None, **options: Any) -> Any:
        with open_client(url, token) as client:
            return command(*args, client=client, **options)

    return with_client


def open_client(url: str | None, token: str | None) -> Client:
    """A client for the service that the options or the environment name."""
    from batchmill.client import Client

    return Client(url, token)


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, and nothing else.")
"""Adds `--json`; the command gets `as_json`."""
