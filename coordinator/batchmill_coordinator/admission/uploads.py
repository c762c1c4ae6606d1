"""Uploads: rows in the blob store that no job has taken yet. Each belongs to a tenant."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidRows
from batchmill.job import new_id
from batchmill_coordinator.admission.arrow_bounds import ArrowLimits, check_file
from batchmill_coordinator.admission.upload_parts import no_such_upload, part_name

if TYPE_CHECKING:
    from batchmill.job import JobSpec
    from batchmill.ledger import Ledger
    from batchmill.workspace import Workspace
    from batchmill_coordinator.admission.admission import Admission


class Uploads:
    """Opens, fills and drops uploads."""

    def __init__(self, ledger: Ledger, workspace: Workspace, admission: Admission, limits: ArrowLimits) -> None:
        self._ledger = ledger
        self._blobs = workspace.blobs
        self._admission = admission
        self._limits = limits

    def begin(self, spec: JobSpec) -> str:
        """Open an upload for a job like `spec`; return its id.

        Raises a subclass of `InvalidRequest`, or `Overloaded`.
        """
        self._admission.check_spec(spec)
        upload_id = new_id("upl")
        self._ledger.jobs.begin_upload(upload_id)
        return upload_id

    def drop(self, upload_id: str) -> None:
        """Drop an open upload; another one is left as it is."""
        if self._ledger.jobs.drop_upload(upload_id):
            self._blobs.delete_folder(f"uploads/{upload_id}")

    def require(self, upload_id: str) -> None:
        """Raise `InvalidSource` unless there is such an open upload."""
        if not self._ledger.jobs.has_upload(upload_id):
            raise no_such_upload(upload_id)

    def store(self, upload_id: str, number: int, path: str) -> None:
        """Store the Arrow IPC file at `path` as a part. Raises `InvalidRows`, `PayloadTooLarge` or `InvalidSource`."""
        self.require(upload_id)
        try:
            with pa.memory_map(path) as file:
                check_file(file.read_buffer(), self._limits)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidRows(
                f"part {number} is no Arrow IPC file ({error}).",
                hint="Write it with pyarrow.ipc.new_file.",
                part=number,
            ) from error
        self._blobs.put_file(part_name(upload_id, number), lambda target: _copy(path, target))


def _copy(path: str, target: str) -> None:
    shutil.copyfile(path, target)
