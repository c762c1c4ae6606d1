"""Which service a client talks to: named by the caller, by the environment, or the one running on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchmill.errors import InvalidSettings, ServiceUnavailable
from batchmill.settings import default_data_dir

if TYPE_CHECKING:
    from pathlib import Path

SERVICE_FILE = "service.json"
"""What `batchmill up` leaves in its data folder while it runs: `{"url", "token", "pid"}`."""


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Where the service listens, and the bearer token it knows us by. The token is never shown."""

    url: str  # without a trailing slash
    token: str | None = field(default=None, repr=False)


def find_service(url: str | None = None, token: str | None = None) -> ServiceAddress:
    """The service to use: `url`, else `BATCHMILL_URL`, else the one that `batchmill up` runs on this machine.

    The token is `token`, else `BATCHMILL_TOKEN` for a named service, else what the running service wrote down.
    Raises `InvalidSettings` for a URL or a token that cannot be one, `ServiceUnavailable` if there is no service.
    """
    named = url or os.environ.get("BATCHMILL_URL")
    if named:
        return ServiceAddress(_checked_url(named), _checked_token(token or os.environ.get("BATCHMILL_TOKEN")))
    running = _running_service(default_data_dir() / SERVICE_FILE)
    return ServiceAddress(_checked_url(str(running["url"])), _checked_token(token or running.get("token")))


def _running_service(path: Path) -> dict[str, Any]:
    try:
        service = json.loads(path.read_bytes())
        alive = _is_alive(int(service["pid"])) and bool(service["url"])
    except FileNotFoundError:
        alive = False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidSettings(
            f"{path} does not say where the service runs: expected a JSON object with url, token and pid ({error}).",
            hint="Start `batchmill up` again, or name a service with BATCHMILL_URL and BATCHMILL_TOKEN.",
            path=str(path),
        ) from error
    if not alive:
        raise ServiceUnavailable(
            f"no service is named, and none runs on this machine with the data folder {str(path.parent)!r}.",
            hint="Start one with `batchmill up`, or name one with BATCHMILL_URL and BATCHMILL_TOKEN "
            "(batchmill.Client(url, token), --url and --token).",
        )
    return dict(service)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _checked_url(url: str) -> str:
    try:
        split = urlsplit(url.strip())
        good = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidSettings(f"{url!r} is no address of a service: expected http://host:port or https://host.")
    if split.username is not None or split.query or split.fragment:
        raise InvalidSettings(
            "the service's URL holds a user name, a query or a fragment; expected http://host:port.",
            hint="Give the token by BATCHMILL_TOKEN or the argument `token`.",
        )
    return url.strip().rstrip("/")


def _checked_token(token: str | None) -> str | None:
    token = (token or "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSettings("the token holds characters that no bearer token has: expected printable ASCII.")
    return token or None
