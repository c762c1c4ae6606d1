"""The options that all client commands share, and the client that they configure."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.client import Client


def url_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--url` and `--token`; the command receives both, for `open_client`."""
    token = click.option(
        "--token", metavar="TOKEN", help="Bearer token; prefer the environment variable.  [env: BATCHMILL_TOKEN]"
    )
    url = click.option(
        "--url",
        metavar="URL",
        help="URL of the service.  [env: BATCHMILL_URL; default: `batchmill up` on this machine]",
    )
    return url(token(command))


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--url` and `--token`; the command receives a `client`, which is closed when it returns."""

    @url_options
    @wraps(command)
    def with_client(*args: Any, url: str | None, token: str | None, **options: Any) -> Any:
        with open_client(url, token) as client:
            return command(*args, client=client, **options)

    return with_client


def open_client(url: str | None, token: str | None) -> Client:
    """Return a client for the service that the options or the environment name."""
    from batchmill.client import Client

    return Client(url, token)


json_option = click.option("--json", "as_json", is_flag=True, help="Print only JSON to stdout.")
"""Add `--json`; the command receives `as_json`."""
