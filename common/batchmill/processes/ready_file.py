"""The file with which a service says that it is ready, to the process that has started it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_ready_file(path: Path, url: str) -> None:
    """Write the URL at which requests are answered; whoever sees the file sees all of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"url": url}))
    draft.replace(path)


def kept_port(path: Path | None, port: int, *, any_port: bool) -> tuple[int, bool]:
    """Return the port to listen on, and whether any other will do if it is taken.

    A process that is started again keeps the port that its ready file names, because its clients know that one. path:
    of the ready file. port: the one that was asked for; 0: any. any_port: whether another will do.
    """
    if path is None or not path.exists() or (port and not any_port):
        return port, any_port
    return int(json.loads(path.read_text())["url"].rpartition(":")[2]), False
