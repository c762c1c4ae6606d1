"""Merges the results of a replay of rows that a later stage gathers into the source rows that wait there for them.

A source row of which a row has failed is not gathered: it is a dead letter of the stage that gathers, with the results
that are there. Those of a replay are put beside them, in the order of paths, one of each path. So merging again changes
nothing. A source row of which there was no result at all becomes such a dead letter. A replay of the stage that gathers
runs those of which no row is a dead letter of an earlier stage any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW, in_path_order, paths_of, without_lineage
from batchmill.jobs.dead_letters import INCOMPLETE, DeadLetter, DeadRows, json_value
from batchmill.stage_inputs.gathered_results import gathered, scattered
from batchmill.stage_results import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchmill.jobs.shard import ShardId
    from batchmill.ledger import JobRecord
    from batchmill.ledger.formats.settlement import Settled
    from batchmill_coordinator.results.dead_rows import DeadRowStore

    Replace = Callable[[Settled, DeadRows], Settled]


def complete(
    dead_rows: DeadRowStore, record: JobRecord, stage: int, results: Iterable[pa.Table], replace_dead: Replace
) -> pa.Table:
    """Put results beside those of their source rows that are dead letters of `stage`; return the others.

    replace_dead: replaces the dead letters of a shard, and returns how it is settled then.
    """
    shards: dict[ShardId, Settled] = {}
    holders: dict[int, ShardId] = {}
    for shard in dead_rows.shards(record, stage):
        shards[shard.shard_id] = shard
        holders |= {letter.path[0]: shard.shard_id for letter in dead_rows.read(record.id, shard).letters}
    others: list[pa.Table] = []
    for table in results:
        found = [holders.get(row) for row in table[SOURCE_ROW].to_pylist()]
        for shard_id in dict.fromkeys(found):
            rows = table.filter(pa.array([one == shard_id for one in found]))
            if shard_id is None:
                others.append(rows)
                continue
            shard = shards[shard_id]
            dead = dead_rows.read(record.id, shard)
            completed = _with_results(dead, rows)
            if not completed.rows.equals(dead.rows):
                shards[shard_id] = replace_dead(shard, completed)
    return in_path_order(joined(others)) if others else pa.table({})


def as_dead_rows(table: pa.Table, stage: int, operator: str, first_index: int, at_s: float) -> DeadRows:
    """Make dead letters of source rows of which there are these results. at_s: when, in seconds since the epoch."""
    rows = gathered(table)
    letters = [
        DeadLetter(
            stage=stage,
            index=first_index + place,
            path=(row,),
            row=_shown(rows, place),
            operator=operator,
            error_type=INCOMPLETE,
            message=f"source row {row}: rows that were made of it failed in an earlier stage, and were replayed.",
            attempts=1,
            worker="",
            first_failed_at=at_s,
            last_failed_at=at_s,
        )
        for place, row in enumerate(rows[SOURCE_ROW].to_pylist())
    ]
    return DeadRows(tuple(letters), rows)


def _with_results(dead: DeadRows, results: pa.Table) -> DeadRows:
    before = scattered(dead.rows)
    known = set(paths_of(before))
    new = results.filter(pa.array([path not in known for path in paths_of(results)]))
    if not new.num_rows:
        return dead
    changed = set(new[SOURCE_ROW].to_pylist())
    rows = gathered(in_path_order(joined([before, new])))
    letters = tuple(
        letter.model_copy(update={"row": _shown(rows, place)}) if letter.path[0] in changed else letter
        for place, letter in enumerate(dead.letters)
    )
    return DeadRows(letters, rows, dead.purged)


def _shown(rows: pa.Table, place: int) -> dict[str, object]:
    shown: dict[str, object] = json_value(without_lineage(rows.slice(place, 1)).to_pylist()[0])
    return shown
