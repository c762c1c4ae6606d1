"""Find the service of a client: given by the caller, by the environment, or running on this machine."""

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
"""The file that `batchmill up` keeps in its data folder while it runs: `{"url", "token", "pid"}`."""


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """The URL of a service and the bearer token for it. The token is never shown."""

    url: str  # without a trailing slash
    token: str | None = field(default=None, repr=False)


def find_service(url: str | None = None, token: str | None = None) -> ServiceAddress:
    """Return the service to use: `url`, else `BATCHMILL_URL`, else the one that `batchmill up` runs on this machine.

    The token is `token`, else `BATCHMILL_TOKEN` for a named service, else the one in the file of the running service.
    Raises `InvalidSettings` for a malformed URL or token, `ServiceUnavailable` if there is no service.
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
            f"{path}: expected a JSON object with url, token and pid ({error}).",
            hint="Start `batchmill up` again, or set a service with BATCHMILL_URL and BATCHMILL_TOKEN.",
            path=str(path),
        ) from error
    if not alive:
        raise ServiceUnavailable(
            f"no service is given, and none runs on this machine with the data folder {str(path.parent)!r}.",
            hint="Start one with `batchmill up`, or give one with BATCHMILL_URL and BATCHMILL_TOKEN "
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
        raise InvalidSettings(f"expected http://host:port or https://host as the service's URL, got {url!r}.")
    if split.username is not None or split.query or split.fragment:
        raise InvalidSettings(
            "the service's URL contains a user name, a query or a fragment; expected http://host:port.",
            hint="Give the token with BATCHMILL_TOKEN or the argument `token`.",
        )
    return url.strip().rstrip("/")


def _checked_token(token: str | None) -> str | None:
    token = (token or "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSettings("the token contains invalid characters: expected printable ASCII without spaces.")
    return token or None
