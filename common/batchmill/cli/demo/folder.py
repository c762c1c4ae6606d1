"""The demo's working folder: created anew each time, but never over a user's own files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from batchmill.embedded.folder import DataFolder
from batchmill.errors import InvalidSettings, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MARKER = ".batchmill-demo"


class DemoFolder:
    """A demo's data: the service's in `service`, the vectors in a Lance table. A marker file identifies the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = path / "service"
        self.index = "language-reference"
        self.table = path / f"{self.index}.lance"

    def recreate(self) -> None:
        """Create the folder, or empty the one of an earlier demo.

        Raises `InvalidSettings` for a folder with other content or one that a demo is using, `StorageError` for a
        folder that cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            entries = sorted(self.path.iterdir())
            if entries:
                self._refuse_if_not_free(entries)
            for entry in entries:
                _remove(entry)
            (self.path / MARKER).touch()
        except OSError as error:
            raise StorageError(
                f"the folder {self.path} cannot be used for the demo ({error.strerror}).",
                hint="Give another with --output.",
            ) from error

    def _refuse_if_not_free(self, entries: Sequence[Path]) -> None:
        if self.path / MARKER not in entries:
            raise InvalidSettings(
                f"the folder {self.path} contains files that no demo created, for example {entries[0].name}.",
                hint="The demo empties its folder first: give a new or an empty one with --output.",
            )
        if self.service.exists():
            service = DataFolder(self.service)
            service.lock()  # refused while another demo's service uses it
            service.release()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    elif entry.name != MARKER:  # kept until the end, in case this is interrupted
        entry.unlink()
