"""Dead letters as they are stored: JSON Lines, a blob an attempt, next to the job's results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.shard import format_shard_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.shard import Shard, ShardRef
    from batchmill_worker.failures import DeadRow


def dead_letters_name(ref: ShardRef) -> str:
    """The blob that holds the dead letters of an attempt."""
    return f"jobs/{ref.job_id}/dead/part-{format_shard_id(ref.shard_id)}-a{ref.token}.jsonl"


def encode_dead_letters(shard: Shard, dead: Sequence[DeadRow], worker: str, failed_at: float) -> bytes:
    """A line a dead row: where it stands in the input, what it was, and why it was given up on."""
    lines = [
        json.dumps(
            {
                "index": shard.first_row + row.index,
                "row": row.row,
                "error_type": row.failure.error_type,
                "message": row.failure.message,
                "traceback": row.failure.traceback,
                "attempts": shard.token,
                "worker": worker,
                "failed_at": failed_at,
            }
        )
        for row in dead
    ]
    return "".join(line + "\n" for line in lines).encode()
