"""The ledger keeper: notices a lost or rolled-back ledger, and deletes blobs that no job has.

1. A ledger has an id, and a revision that the leader raises every `REVISION_INTERVAL_S`. The blob store has a mark, the
   blob `MARK`, with the id of the ledger it belongs to and the last revision.
2. A mark with another id means that the ledger was lost, or that two services share a blob store. It is reported, and
   nothing is deleted: the blobs may be another ledger's.
3. A mark with a higher revision means that the ledger was rolled back, to a copy or a stale replica. It is reported.
4. A store without a mark gets one, if its ledger has never marked any; otherwise it is reported: its disk may not be
   mounted any more. If it has jobs that this ledger does not know, it is not swept.
5. Otherwise folders of jobs, uploads and files that the ledger does not know are noted, and deleted if they still are
   unknown `ORPHAN_TTL_S` later. A coordinator that was killed leaves such: between storing rows and the acceptance of a
   job, or between forgetting an upload and deleting its rows. Segments of the row cache that it does not know go
   likewise.
"""

from __future__ import annotations

import json
import logging
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from batchmill.store_mark import MARK, Mark, StoreMark
from batchmill_coordinator.roles.cache_sweep import adopt_row_cache
from batchmill_coordinator.status.notices import Notice

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import Ledger
    from batchmill.ledger.identity import LedgerIdentity
    from batchmill.storage.blobs import BlobStore
    from batchmill_coordinator.roles.clock_guard import ClockGuard
    from batchmill_coordinator.status.notices import Notices

log = logging.getLogger(__name__)

REVISION_INTERVAL_S = 60.0
SWEEP_INTERVAL_S = 3600.0
ORPHAN_TTL_S = 24 * 3600.0


class Ownership(StrEnum):
    """How a ledger and the mark of the blob store fit."""

    OWNED = "owned"
    UNCLAIMED = "unclaimed"
    FOREIGN = "foreign"
    ROLLED_BACK = "rolled back"


def ownership(identity: LedgerIdentity, mark: Mark | None) -> Ownership:
    """Compare them. Pure."""
    if mark is None:
        return Ownership.UNCLAIMED
    if mark.ledger != identity.ledger_id:
        return Ownership.FOREIGN
    return Ownership.ROLLED_BACK if mark.revision > identity.revision else Ownership.OWNED


class LedgerKeeper:
    """Compares the ledger with the blob store's mark, and sweeps orphans."""

    name = "ledger-keeper"
    wakes_on: frozenset[str] = frozenset()
    period_s = 5.0

    def __init__(self, ledger: Ledger, blobs: BlobStore, clocks: ClockGuard, notices: Notices, clock: Clock) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._mark = StoreMark(ledger, blobs)
        self._clocks = clocks
        self._notices = notices
        self._clock = clock
        self._epoch = 0
        self._is_reported = False
        self._marked_at_s = float("-inf")  # monotonic
        self._swept_at_s = float("-inf")

    def step(self, epoch: int) -> None:
        """Compare, mark and sweep what is due. Raises `StorageError`."""
        is_due = self._clock.monotonic() - self._marked_at_s >= REVISION_INTERVAL_S
        identity = self._ledger.identity.read(secrets.token_hex(8))
        mark = self._mark.read()
        match ownership(identity, mark):
            case Ownership.FOREIGN:
                self._report_foreign(identity, mark)
            case Ownership.ROLLED_BACK:
                self._report_rolled_back(identity, mark)
                self._write_mark(mark)
            case Ownership.UNCLAIMED:
                if identity.revision:
                    self._report_unmarked(identity)
                elif self._mark.claim(Mark(ledger=identity.ledger_id, sweeps=self._knows_all())):
                    self._marked_at_s = self._clock.monotonic()
            case Ownership.OWNED:
                if self._is_reported:
                    self._is_reported = False
                    self._notices.clear(Notice.LEDGER)
                if is_due or epoch != self._epoch:
                    self._write_mark(mark)
                if mark is not None and mark.sweeps:
                    self._sweep()
            case never:
                assert_never(never)
        self._epoch = epoch

    def _write_mark(self, mark: Mark | None) -> None:
        assert mark is not None  # noqa: S101  # the caller has compared it
        self._mark.write(mark)
        self._marked_at_s = self._clock.monotonic()

    def _report_foreign(self, identity: LedgerIdentity, mark: Mark | None) -> None:
        assert mark is not None  # noqa: S101  # as above
        self._is_reported = True
        own = json.dumps({"ledger": identity.ledger_id, "sweeps": True})
        self._notices.report(
            Notice.LEDGER,
            f"the blob store {self._blobs.root.uri} belongs to ledger {mark.ledger}, this one is {identity.ledger_id}: "
            f"Redis has lost its data, or BATCHMILL_REDIS_URL or BATCHMILL_REDIS_PREFIX names another ledger. The jobs "
            f"of the former ledger are unknown; their blobs are kept. Restore its data; if it is lost for good, write "
            f"{own} into the blob {MARK}: its blobs are then deleted after {ORPHAN_TTL_S / 3600:.0f} hours.",
        )

    def _report_unmarked(self, identity: LedgerIdentity) -> None:
        self._is_reported = True
        own = json.dumps({"ledger": identity.ledger_id, "sweeps": False})
        self._notices.report(
            Notice.LEDGER,
            f"the blob store {self._blobs.root.uri} has no mark of a ledger any more, although this one has marked "
            f"{identity.store or 'it'}: its disk may not be mounted, or its content was deleted. Mount or restore it; "
            f"if it is empty for good, write {own} into the blob {MARK}.",
        )

    def _report_rolled_back(self, identity: LedgerIdentity, mark: Mark | None) -> None:
        assert mark is not None  # noqa: S101  # as above
        lost_s = (mark.revision - identity.revision) * REVISION_INTERVAL_S
        self._notices.report(
            Notice.LEDGER,
            f"the ledger was rolled back, by about {lost_s:.0f} s of a leader's work: Redis was restored from a copy, "
            f"or a stale replica was promoted. Jobs submitted since then are unknown; work since then is done again.",
        )
        self._ledger.identity.advance(mark.revision - identity.revision)

    def _knows_all(self) -> bool:
        unknown = self._ledger.identity.unknown_jobs(self._blobs.folders("jobs"))
        if unknown:
            log.warning(
                "the blob store has %d job(s) that this ledger does not know, %s for example; they are not deleted",
                len(unknown),
                unknown[0],
            )
        return not unknown

    def _sweep(self) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._swept_at_s < SWEEP_INTERVAL_S or not self._clocks.is_trusted():
            return
        self._swept_at_s = now_s
        folders = {job_id: f"jobs/{job_id}" for job_id in self._blobs.folders("jobs")}
        uploads = {upload_id: f"uploads/{upload_id}" for upload_id in self._blobs.folders("uploads")}
        identity = self._ledger.identity
        files = {file_id: f"files/{file_id}" for file_id in self._blobs.folders("files")}
        orphans = [
            *identity.unknown_jobs(list(folders)),
            *identity.unknown_uploads(list(uploads)),
            *self._ledger.files.unknown(list(files)),
        ]
        for name in identity.note_orphans(orphans, self._ledger.now_ms(), int(ORPHAN_TTL_S * 1000)):
            log.warning("the blobs of %s, which the ledger does not know, are deleted", name)
            self._blobs.delete_folder((folders | uploads | files)[name])
        adopt_row_cache(self._ledger, self._blobs)
