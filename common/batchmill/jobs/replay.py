"""The requests to run rows of an ended job again: its failed ones, or those whose results are damaged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from batchmill.jobs.frozen import Frozen, Name

MAX_CHOSEN = 10_000
SHARD_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12}){0,64}$"
MAX_PURGED = 1_000
"""Rows named in one request that purges: they are in its URL."""

Index = Annotated[int, Field(ge=0, lt=2**63)]


class RowEdit(Frozen):
    """New values for columns of a failed row, as JSON (see `json_value`). Other columns are unchanged."""

    index: Index  # of the row in the stage's input
    row: dict[str, Any]


class ReplayRequest(Frozen):
    """The body of `POST /v1/jobs/{id}/replay`: the failed rows to run again; by default all.

    `indices` and `error_type` narrow the choice. Edited rows are run again besides; edits alone choose just these.
    `stage` names the stage whose rows they are; the rows continue through all stages after it. It may be left out where
    rows failed in one stage only.
    """

    stage: Name | None = None
    indices: list[Index] | None = Field(default=None, max_length=MAX_CHOSEN)
    error_type: str | None = Field(default=None, max_length=256)
    edits: list[RowEdit] = Field(default=[], max_length=MAX_CHOSEN)
    idempotency_key: Name | None = None


class RedoRequest(Frozen):
    """The body of `POST /v1/jobs/{id}/redo`: the shards whose results are checked; by default all.

    Those whose results are damaged or missing are run again completely. A `damaged_data` error names its shard.
    """

    shards: list[Annotated[str, Field(pattern=SHARD_PATTERN)]] | None = Field(default=None, max_length=MAX_CHOSEN)
    idempotency_key: Name | None = None
