"""Deletes blobs of the row cache that its index does not name: their segment was evicted, or never kept.

A ledger that was rolled back does not know the last of them; `adopt_row_cache` finds those in the folder.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from batchmill.errors import StorageError
from batchmill.row_cache import FOLDER, segment_blob, segment_of_blob

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.storage.blobs import BlobStore

log = logging.getLogger(__name__)


def sweep_row_cache(ledger: Ledger, blobs: BlobStore) -> None:
    """Delete the blobs of some loose segments that are due. What cannot be deleted stays due."""
    gone = []
    for segment in ledger.row_cache.loose(ledger.now_ms()):
        try:
            blobs.delete(segment_blob(segment))
        except StorageError as error:
            log.warning("a segment of the row cache could not be deleted, which is tried again: %s", error)
            break
        gone.append(segment)
    ledger.row_cache.remove_loose(gone)


def adopt_row_cache(ledger: Ledger, blobs: BlobStore) -> None:
    """Let the sweep delete the blobs of unknown segments, a day from now. Raises `StorageError`."""
    found = [segment for name in blobs.list(FOLDER) if (segment := segment_of_blob(name)) is not None]
    adopted = ledger.row_cache.adopt(found, ledger.now_ms())
    if adopted:
        log.warning("%d segment(s) of the row cache, which the ledger does not know, are deleted in a day", adopted)


def clear_row_cache(ledger: Ledger, blobs: BlobStore) -> None:
    """Forget everything in the row cache, and delete its folder.

    Raises `StorageError` if that cannot be deleted; the janitor continues then. Segments that are just being written
    are entered again, or count as missing.
    """
    ledger.row_cache.clear()
    blobs.delete_folder(FOLDER)
