"""Names of an upload's parts, and the error for an upload that is not there. Pure."""

from __future__ import annotations

from batchmill.errors import InvalidSource


def part_name(upload_id: str, number: int) -> str:
    """The blob of one part of an upload."""
    return f"uploads/{upload_id}/part-{number:08d}.arrow"


def no_such_upload(upload_id: str) -> InvalidSource:
    """The error for an upload that is not open, or is another tenant's."""
    return InvalidSource(
        f"there is no open upload {upload_id!r}: it was never begun, has expired, or belongs to a job already.",
        hint="Begin one with POST /v1/uploads, and upload the rows again.",
        upload=upload_id,
    )
