"""Collects what device processes count, from the files of prometheus-client's multiprocess mode.

1. Each process has its own files. Their disk space is reserved at its start: writing to mapped memory without space on
   the disk would kill it without a message.
2. The files outlive the process. They are then added to the archive and deleted, so that neither the folder nor a
   scrape grows with the number of processes that there have been.
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
"""The kinds that outlive a process; gauges do not."""
ARCHIVE = "ended"
MAX_ARCHIVED = 4_000
"""How many values of ended processes are kept: operators may add metrics of their own, without a limit."""
SLOT_FILE_BYTES = 256 * 1024  # enough for some twenty operators; it grows if need be
ARCHIVE_FILE_BYTES = 2 * 1024 * 1024

_Values: Any = mmap_dict.MmapedDict  # its functions have no types


def reserve(folder: Path, pid: int) -> None:
    """Reserve disk space for the metrics of a process. Raises `StorageError` if there is none."""
    for kind in ("counter", "histogram", "gauge_livesum"):
        _reserve_file(folder / f"{kind}_{pid}.db", SLOT_FILE_BYTES)


def _reserve_file(path: Path, nbytes: int) -> None:
    try:
        path.write_bytes(bytes(nbytes))
    except OSError as error:
        raise StorageError(
            f"there is no room for metrics in {path.parent}: {error.strerror or error}.",
            hint="Make room there, or set TMPDIR to a folder on another disk.",
        ) from error


class SlotMetricsCollector(Collector):
    """Collects the metrics of all device processes, ended ones included. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Reserve disk space for the archive. Raises `StorageError` if there is none."""
        for kind in ADDED_UP:
            _reserve_file(folder / f"{kind}_{ARCHIVE}.db", ARCHIVE_FILE_BYTES)
        self._folder = folder
        self._gatherer: Any = MultiProcessCollector(None, str(folder))
        self._lock = threading.Lock()  # so that nothing is collected in the middle of a move to the archive

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all processes, added up."""
        with self._lock:
            return list(self._gatherer.collect())

    def archive(self, pid: int) -> None:
        """Add the metrics of an ended process to the archive, and delete its files."""
        with self._lock:
            for kind in ADDED_UP:
                self._archive(self._folder / f"{kind}_{pid}.db", self._folder / f"{kind}_{ARCHIVE}.db")
            mark_process_dead(pid, str(self._folder))
            for gauge in self._folder.glob(f"gauge_*_{pid}.db"):
                gauge.unlink()

    def _archive(self, ended: Path, archive: Path) -> None:
        if not ended.exists():
            return
        archived = _Values(str(archive))
        try:
            known = {key for key, _, _ in archived.read_all_values()}
            for key, value, *_ in _Values.read_all_values_from_file(str(ended)):
                if key in known or len(known) < MAX_ARCHIVED:
                    known.add(key)
                    archived.write_value(key, archived.read_value(key)[0] + value, 0.0)
        except (RuntimeError, struct.error, UnicodeDecodeError) as error:
            log.warning("some metrics of an ended process are lost: %s", error)
        finally:
            archived.close()
        ended.unlink()
