"""A shard of a stage that keeps state: one of a sequence, each of which begins with what the one before it has left.

1. The planner makes a shard of such a stage when the one before it is settled. So they run in order, one at a time.
2. A stage may have groups of keys. Then it has as many sequences, and a shard of each is planned at once, of the same
   rows: a round. So the shards that begin with what those of a round have left are the next round.
3. The state is a blob under the name of the attempt that has left it. The commit of that attempt makes its results
   count, and with them its state: the next shard names the part of the committed attempt. An attempt that loses its
   shard leaves a state that nothing names, and one that is run again begins with the same state, rows and time.
4. Each shard ends with a row that is none of the stage before: what it makes because time has passed, or because no
   rows will come any more, is made of that row. So there can be a shard without other rows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.shard import Slice

if TYPE_CHECKING:
    from batchmill.jobs.shard import Shard


class StateStep(NamedTuple):
    """What a shard is in the sequence; the last of its slices."""

    before: str = ""  # the part whose attempt has left the state: "17-a2"; of the first shard empty
    obsolete: int = 0  # no shard before this one can be run again: their states can go
    now_ms: int = 0  # when it was planned, since the epoch: its time, whenever it runs
    is_last: bool = False  # whether no rows will come any more
    before_ms: int = 0  # when that part was planned: of the same name, a ledger that is rolled back may plan another
    group: int = 0  # of keys: the shard takes the rows of these
    groups: int = 1  # of the stage

    def slice(self) -> Slice:
        """Write it as the slice with the last row of its shard."""
        return Slice(0, 0, 0, 1, offsets=json.dumps(list(self), separators=(",", ":")))

    @classmethod
    def of(cls, shard: Shard) -> StateStep:
        """Read it from a shard."""
        return cls(*json.loads(shard.slices[-1].offsets))


def state_name(job_id: str, stage: int, part: str) -> str:
    """Name the blob with the state that an attempt has left. part: what the ledger calls its results."""
    return f"{state_folder(job_id)}/{stage}/{part}"


def state_folder(job_id: str) -> str:
    """Name the folder of all states of a job."""
    return f"jobs/{job_id}/state"
