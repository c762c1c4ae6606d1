"""What device processes counted, gathered from the files of prometheus-client's multiprocess mode.

1. Each process has its own files. Room for them is taken at its start: writing to mapped memory that the disk has no
   room for would end it without a word.
2. Its end leaves them behind. They are added to the archive then and removed, so that neither the folder nor a scrape
   grows with the number of processes that there have been.
"""

from __future__ import annotations

import logging
import struct
import threading
from typing import TYPE_CHECKING, Any

from prometheus_client import mmap_dict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from batchmill.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client import Metric

log = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus-client looks for the folder, in the environment of a device process."""

ADDED_UP = ("counter", "histogram", "summary")
"""What outlives a process; of gauges nothing does."""
ARCHIVE = "ended"
MAX_ARCHIVED = 4_000
"""So many values of ended processes are kept apart: operators may count things of their own."""
OF_SLOT_BYTES = 256 * 1024  # some twenty operators; it grows if need be
OF_ARCHIVE_BYTES = 2 * 1024 * 1024

_Values: Any = mmap_dict.MmapedDict  # its calls have no types


def reserve(folder: Path, pid: int) -> None:
    """Take room for what a process counts. Raises `StorageError`."""
    for kind in ("counter", "histogram", "gauge_livesum"):
        _take_room(folder / f"{kind}_{pid}.db", OF_SLOT_BYTES)


def _take_room(path: Path, nbytes: int) -> None:
    try:
        path.write_bytes(bytes(nbytes))
    except OSError as error:
        raise StorageError(
            f"there is no room for metrics in {path.parent}: {error.strerror or error}.",
            hint="Make room there, or set TMPDIR to a folder on another disk.",
        ) from error


class SlotMetrics(Collector):
    """The metrics of all device processes, of those that ended too. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Take room for the archive. Raises `StorageError`."""
        for kind in ADDED_UP:
            _take_room(folder / f"{kind}_{ARCHIVE}.db", OF_ARCHIVE_BYTES)
        self._folder = folder
        self._gatherer: Any = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()  # so that nobody gathers in the middle of a move to the archive

    def collect(self) -> Iterable[Metric]:
        """What all processes have counted together."""
        with self._lock:
            return list(self._gatherer.collect())

    def archive(self, pid: int) -> None:
        """Keep what a process counted that has ended."""
        with self._lock:
            for kind in ADDED_UP:
                self._archive(self._folder / f"{kind}_{pid}.db", self._folder / f"{kind}_{ARCHIVE}.db")
            mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]
            for gauge in self._folder.glob(f"gauge_*_{pid}.db"):
                gauge.unlink()

    def _archive(self, ended: Path, archive: Path) -> None:
        if not ended.exists():
            return
        kept = _Values(str(archive))
        try:
            known = {key for key, _, _ in kept.read_all_values()}
            for key, value, *_ in _Values.read_all_values_from_file(str(ended)):
                if key in known or len(known) < MAX_ARCHIVED:
                    known.add(key)
                    kept.write_value(key, kept.read_value(key)[0] + value, 0.0)
        except (RuntimeError, struct.error, UnicodeDecodeError) as error:
            log.warning("what an ended process counted is not all there: %s", error)
        finally:
            kept.close()
        ended.unlink()
