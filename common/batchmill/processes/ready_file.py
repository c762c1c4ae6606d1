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
