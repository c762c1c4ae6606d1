"""Which row of the first job each row of a replay is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from batchmill.workspace import Workspace


def write_replay_rows(workspace: Workspace, replay_id: str, original_rows: list[int]) -> None:
    """Store which row of the first job each row of a replay is. Raises `StorageError`."""
    workspace.blobs.put_table(_name(replay_id), pa.table({"index": pa.array(original_rows, pa.int64())}))


def read_replay_rows(workspace: Workspace, replay_id: str) -> pa.Array:
    """Read what `write_replay_rows` stored: int64, ascending, one for each row of the replay. Raises `NotFound`."""
    return workspace.blobs.read_table(_name(replay_id))["index"].combine_chunks()


def _name(replay_id: str) -> str:
    return f"jobs/{replay_id}/places.arrow"
