"""The error for an upload that is not there. Pure."""

from __future__ import annotations

from batchmill.errors import InvalidSource


def no_such_upload(upload_id: str) -> InvalidSource:
    """The error for an upload that is not open, or is another tenant's."""
    return InvalidSource(
        f"there is no open upload {upload_id!r}: it was never begun, has expired, or belongs to a job already.",
        hint="Begin one with POST /v1/uploads, and upload the rows again.",
        upload=upload_id,
    )
