"""Which row of the first job each row of a replay is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from batchmill.workspace import Workspace


def write_replay_rows(workspace: Workspace, replay_id: str, places: list[int]) -> None:
    """Note of which row of the first job each row of a replay is."""
    workspace.blobs.put_table(_places_name(replay_id), pa.table({"index": pa.array(places, pa.int64())}))


def read_replay_rows(workspace: Workspace, replay_id: str) -> pa.Array:
    """The inverse of `write_replay_rows`: int64, ascending, one a row of the replay. Raises `NotFound`."""
    return workspace.blobs.read_table(_places_name(replay_id))["index"].combine_chunks()


def _places_name(replay_id: str) -> str:
    return f"jobs/{replay_id}/places.arrow"
