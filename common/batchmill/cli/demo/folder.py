"""The folder that a demo works in: made anew each time, but never over somebody's own files."""

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
    """Where a demo's data lie: the service's in `service`, the results in `vectors`. A marker says whose it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = path / "service"
        self.vectors = path / "vectors"

    def recreate(self) -> None:
        """Make the folder, or empty the one that a former demo left.

        Raises `InvalidSettings` for a folder that holds something else or that a demo is using, `StorageError` for
        one that cannot be written.
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
                hint="Name another with --output.",
            ) from error

    def _refuse_if_not_free(self, entries: Sequence[Path]) -> None:
        if self.path / MARKER not in entries:
            raise InvalidSettings(
                f"the folder {self.path} holds files that are no demo's, for example {entries[0].name}.",
                hint="The demo empties its folder first: name a new or an empty one with --output.",
            )
        if self.service.exists():
            service = DataFolder(self.service)
            service.take()  # refused while another demo's service runs over it
            service.release()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    elif entry.name != MARKER:  # it stays to the last, for the case that this is cut short
        entry.unlink()
