"""What is known of a batch: what OpenAI's clients see, and what the service needs besides."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from batchmill.jobs.frozen import Frozen


class BatchStatus(StrEnum):
    """The states of a batch, as OpenAI's API has them."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended."""
        return self in (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


class BatchError(Frozen):
    """What is wrong with a line, counted from 1, or with the batch."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(Frozen):
    """The list of errors."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(Frozen):
    """Requests of a batch. Those that were never run are neither completed nor failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(Frozen):
    """Of the tokens of the input."""

    cached_tokens: int


class OutputDetails(Frozen):
    """Of the tokens of the output."""

    reasoning_tokens: int


class BatchUsage(Frozen):
    """The tokens of all requests together."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Batch(Frozen):
    """A batch as clients see it. Times are in seconds since the epoch. `job` is the job that runs it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None = None
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None
    job: str | None = None

    def moved(self, status: BatchStatus, now_s: int, **changes: Any) -> Batch:
        """Return the batch in another state, with the time of it."""
        return self.model_copy(update={"status": status, f"{status}_at": now_s, **changes})


class BatchRecord(Frozen):
    """A batch as it is stored.

    output_ttl_s: how long the files that it writes are kept; None: as other files.
    output_id, error_id: what these files are called once they are written, however often that is tried.
    upload, parts, rows: where the rows of the job are, and how many. params: of its operator, as the lines set them.
    """

    batch: Batch
    output_ttl_s: int | None
    output_id: str
    error_id: str
    upload: str | None = None
    parts: int = 0
    rows: int = 0
    params: dict[str, Any] = {}  # noqa: RUF012  # pydantic gives each value its own
