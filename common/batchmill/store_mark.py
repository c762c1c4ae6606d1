"""The mark of a blob store: which ledger its blobs belong to. Coordinators write it, workers require it.

A worker with another blob store than the coordinators' would lose the results of every shard that it commits.
"""

from __future__ import annotations

import errno
import logging
import secrets
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from batchmill.errors import InvalidSettings, NotFound, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.ledger.identity import LedgerIdentity
    from batchmill.storage.blobs import BlobStore

log = logging.getLogger(__name__)

MARK = "service/ledger.json"


class Mark(BaseModel):
    """What the blob store knows of its ledger. sweeps: whether folders without a job may be deleted."""

    model_config = ConfigDict(frozen=True)

    ledger: str
    revision: int = 0
    sweeps: bool = True


class StoreMark:
    """The mark of one blob store, and the ledger that it is compared with. People may write it, so it has no seal."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs.unsealed()

    def read(self) -> Mark | None:
        """Read the mark; None if the store has none. Raises `StorageError`."""
        try:
            return Mark.model_validate_json(self._blobs.get(MARK).to_pybytes())
        except NotFound:
            return None
        except ValidationError as error:
            raise StorageError(
                f"the blob {MARK} is not the mark of a ledger.", hint="Restore it, or delete it: it is written again."
            ) from error

    def write(self, mark: Mark) -> None:
        """Write the mark with the next revision, and note in the ledger where the store is. Raises `StorageError`."""
        self._ledger.identity.name_store(self._blobs.root.uri)
        marked = mark.model_copy(update={"revision": self._ledger.identity.advance()})
        self._blobs.put(MARK, marked.model_dump_json().encode())

    def require(self) -> bool:
        """Return whether this is known to be the ledger's blob store; False while no coordinator has marked any.

        Raises `InvalidSettings`, which names both stores, if it is another one, `StorageError` if it cannot be read.
        """
        identity = self._ledger.identity.read(secrets.token_hex(8))
        if identity.revision == 0:
            return False
        mark = self.read()
        if mark is None or mark.ledger != identity.ledger_id:
            raise self._other_store(identity, mark)
        return True

    def require_writable(self) -> None:
        """Raise `StorageError` unless blobs can be written and deleted; storage that is full or away may recover."""
        probe = f"service/probes/{secrets.token_hex(8)}"
        try:
            self._blobs.put(probe, b"")
            self._blobs.delete(probe)
        except StorageUnavailable as error:
            if getattr(error.__cause__, "errno", None) == errno.EROFS:
                raise
            log.warning("%s", error)

    def _other_store(self, identity: LedgerIdentity, mark: Mark | None) -> InvalidSettings:
        own = Mark(ledger=identity.ledger_id, sweeps=False).model_dump_json()
        found = f"belongs to another ledger, {mark.ledger}" if mark else "has no mark of a ledger"
        return InvalidSettings(
            f"the blob store {self._blobs.root.uri} is not that of this ledger: it {found}. The ledger "
            f"{identity.ledger_id} keeps its blobs in {identity.store or 'another one'}.",
            hint="Give all coordinators and workers the same folder or bucket in BATCHMILL_BLOB_ROOT, mounted on each "
            f"machine. If the blobs were moved here, write {own} into the blob {MARK}.",
            store=self._blobs.root.uri,
        )
