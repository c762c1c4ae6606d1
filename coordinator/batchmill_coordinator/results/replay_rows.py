"""Which row of the first job each row of a replay is, and which shards of it are done again completely."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.workspace import Workspace

_REDONE = b"redone"


@dataclass(frozen=True, slots=True)
class ReplayRows:
    """The rows of a replay.

    indices: int64, ascending: by row of the replay, the row of the first job. redone: of shards whose results are
    damaged, by id, the token of the attempt that wrote them; without any, the replay is one of failed rows.
    """

    indices: pa.Array
    redone: Mapping[str, int]


def write_replay_rows(
    workspace: Workspace, replay_id: str, indices: list[int], redone: Mapping[str, int] | None = None
) -> None:
    """Store the rows of a replay. Raises `StorageError`."""
    table = pa.table({"index": pa.array(indices, pa.int64())})
    if redone:
        table = table.replace_schema_metadata({_REDONE: json.dumps(dict(redone))})
    workspace.blobs.put_table(_name(replay_id), table)


def read_replay_rows(workspace: Workspace, replay_id: str) -> ReplayRows:
    """Read what `write_replay_rows` stored. Raises `NotFound` or `StorageError`."""
    table = workspace.blobs.read_table(_name(replay_id))
    redone = json.loads((table.schema.metadata or {}).get(_REDONE, b"{}"))
    return ReplayRows(table["index"].combine_chunks(), redone)


def _name(replay_id: str) -> str:
    return f"jobs/{replay_id}/places.arrow"
