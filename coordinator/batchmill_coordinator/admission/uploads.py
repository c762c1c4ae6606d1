"""Uploads: rows in the blob store that no job has taken yet. Each belongs to a tenant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.jobs.files import upload_part
from batchmill.jobs.ids import new_id
from batchmill_coordinator.admission.upload_parts import no_such_upload

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.workspace import Workspace
    from batchmill_coordinator.inspection.inspector import Inspector

MAX_UPLOADS = 100_000
"""Open uploads of all tenants together."""


class Uploads:
    """Opens, fills and drops uploads."""

    def __init__(
        self, ledger: Ledger, workspace: Workspace, inspector: Inspector, settings: CoordinatorSettings
    ) -> None:
        self._ledger = ledger
        self._blobs = workspace.blobs
        self._settings = settings
        self._inspector = inspector

    def begin(self, tenant: str) -> str:
        """Open an upload; return its id. Raises `Overloaded` when the tenant has too many."""
        upload_id = new_id("upl")
        self._ledger.tenants.require_upload_room(
            tenant, self._settings.max_uploads_per_tenant, self._settings.max_upload_bytes_per_tenant
        )
        self._ledger.uploads.begin(upload_id, max_uploads=MAX_UPLOADS)
        self._ledger.tenants.add_upload(tenant, upload_id)
        return upload_id

    def drop(self, upload_id: str, tenant: str) -> None:
        """Drop an open upload of the tenant; another one is left as it is."""
        if self._ledger.tenants.owns_upload(tenant, upload_id) and self._ledger.uploads.drop(upload_id):
            self._ledger.tenants.remove_upload(tenant, upload_id)
            self._blobs.delete_folder(f"uploads/{upload_id}")

    def require(self, upload_id: str, tenant: str) -> None:
        """Raise `InvalidSource` unless the tenant has such an open upload."""
        if not (self._ledger.tenants.owns_upload(tenant, upload_id) and self._ledger.uploads.is_open(upload_id)):
            raise no_such_upload(upload_id)

    def store(self, upload_id: str, tenant: str, number: int, path: str) -> None:
        """Store the Arrow IPC file at `path` as a part.

        Raises `InvalidRows`, `PayloadTooLarge`, `InvalidSource`, or `Overloaded` when the tenant has too much.
        """
        self.require(upload_id, tenant)
        self._inspector.check_part(path, number)
        self._ledger.tenants.add_upload_bytes(
            tenant, upload_id, Path(path).stat().st_size, self._settings.max_upload_bytes_per_tenant
        )
        self._blobs.put_file(upload_part(upload_id, number), lambda target: _copy(path, target))


def _copy(path: str, target: str) -> None:
    shutil.copyfile(path, target)
