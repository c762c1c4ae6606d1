"""Jobs whose record this build cannot read: written by another version, or damaged. They are named and set aside."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from batchmill.errors import UnreadableRecord
from batchmill.jobs.cost import parse_pool_operator
from batchmill.jobs.job import DEFAULT_POOL, DEFAULT_TENANT, JobError, JobState
from batchmill.jobs.status import JobStatus
from batchmill.json_values import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Hash = Mapping[bytes, bytes]

MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class UnreadableJob:
    """What is known of a job without its specification."""

    id: str
    reason: str
    state: JobState
    tenant: str
    created_at: int  # milliseconds since the epoch
    finished_at: int | None
    pools: tuple[str, ...]  # of its stages
    operators: tuple[str, ...]
    upload: str | None  # the upload that it took, as far as that can be made out

    @classmethod
    def from_hashes(cls, job_id: str, found: Hash, stages: Sequence[Hash], error: Exception) -> Self:
        """Read what can be read of the hashes of a job and of its stages. Never raises."""
        worked_for = [_text(stage, b"worked_for") for stage in stages if stage]
        pairs = [parse_pool_operator(name or DEFAULT_POOL) for name in worked_for]
        state = _text(found, b"state")
        return cls(
            id=job_id,
            reason=printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:MAX_REASON_CHARS],
            state=JobState(state) if state in list(JobState) else JobState.FAILED,
            tenant=_text(found, b"tenant") or DEFAULT_TENANT,
            created_at=_number(found, b"created_at") or 0,
            finished_at=_number(found, b"finished_at"),
            pools=tuple(pool for pool, _ in pairs),
            operators=tuple(operator for _, operator in pairs),
            upload=_upload(_text(found, b"spec")),
        )

    def error(self) -> UnreadableRecord:
        """The error for a request that needs the record."""
        return UnreadableRecord(
            f"the record of job {self.id} cannot be read ({self.reason}).",
            hint="It was written by another version of Batchmill, or is damaged. Start the version that wrote it, or "
            "cancel and delete the job.",
            job=self.id,
        )

    def status(self) -> JobStatus:
        """The job's status, with that error."""
        error = self.error()
        return JobStatus(
            id=self.id,
            state=self.state,
            operator=self.operators[-1] if self.operators else "",
            pool=self.pools[-1] if self.pools else DEFAULT_POOL,
            created_at=self.created_at / 1000,
            finished_at=None if self.finished_at is None else self.finished_at / 1000,
            tenant=self.tenant,
            error=JobError(code=error.code, message=str(error)),
            note="its record is unreadable",
        )


def _text(found: Hash, name: bytes) -> str:
    return found.get(name, b"").decode(errors="replace")


def _number(found: Hash, name: bytes) -> int | None:
    text = _text(found, name)
    return int(text) if text.isascii() and text.isdigit() else None


def _upload(spec: str) -> str | None:
    upload: Any = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        upload = json.loads(spec)["source"]["upload"]
    return upload if isinstance(upload, str) else None
