"""Results of a stage that are cut between source rows only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.errors import DamagedData
from batchmill.jobs.job import JobForm
from batchmill.jobs.shard import ShardId, format_shard_id
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.encodings import SourceRowBorders, write_settled
from batchmill.ledger.formats.settlement import Settled
from batchmill.sources.base import End, InputSplit, NotYet
from batchmill_coordinator.results.stage_source import StageSource

if TYPE_CHECKING:
    from batchmill.ledger import Ledger

JOB = "job-1"
Rows = list[int]


def source(ledger: Ledger, shards: list[list[Rows | None] | None], *, gathers: bool, noted: bool = True) -> StageSource:
    """The source of the second stage of three. shards: of each planned shard of the first the parts, each the source
    rows of its results; None: it, or the part, is not settled. gathers: whether the second stage does, or the third.
    """
    keys, redis = ledger._store.keys, ledger._store.redis
    for number, parts in enumerate(shards):
        parts = parts or []
        ids = [ShardId((number,))] if len(parts) == 1 else [ShardId((number, at)) for at in range(len(parts))]
        if len(parts) > 1:
            redis.hset(keys.done(JOB, 0), str(number), f"split {len(parts)}")
        for shard_id, rows in zip(ids, parts, strict=True):
            if rows is None:
                continue
            name, settled = format_shard_id(shard_id), Settled(0, shard_id, 1, len(rows), 0, 10 * len(rows), 0)
            redis.hset(keys.done(JOB, 0), name, write_settled(settled))
            if rows and noted:
                places = [at for at, row in enumerate(rows) if not at or rows[at - 1] != row]
                borders = SourceRowBorders.of([rows[at] for at in places], places)
                redis.hset(keys.borders(JOB, 0), name, borders.write())
    first = {b"shards_planned": str(len(shards)).encode(), b"planned": b"1", b"rows_total": b"9"}
    first[b"shards_live"] = str(sum(parts is None or None in parts for parts in shards)).encode()
    form = JobForm(stages=[{"operator": "echo", "name": name} for name in "abc"])
    spec = form.spec()
    gathering = 1 if gathers else 2
    stages = tuple(
        stage.model_copy(update={"gathers": number == gathering}) for number, stage in enumerate(spec.stages)
    )
    fields = {b"spec": spec.model_copy(update={"stages": stages}).model_dump_json().encode(), b"state": b"running"}
    return StageSource(ledger, JobRecord.from_hashes(JOB, fields, [first, {}, {}]), 1, cast("Any", None))


def rows_of(split: object) -> tuple[int, list[tuple[str, int, int]]]:
    assert isinstance(split, InputSplit), split
    return split.rows, [(piece.part, piece.start, piece.rows) for piece in split.slices]


SHARDS: list[list[Rows | None] | None] = [[[]], [[1, 1, 2, 3, 3, 3]], [[4, 5, 5], [5, 6]], [[7]]]


def test_a_split_ends_between_source_rows(ledger: Ledger) -> None:
    found = source(ledger, SHARDS, gathers=False)
    splitter = found.splitter("")
    first = splitter.next_split(4, 1 << 20)
    assert rows_of(first) == (3, [("1-a1", 0, 3)])
    assert isinstance(first, InputSplit)
    again = found.splitter(first.cursor)
    for one in (splitter, again):
        assert rows_of(one.next_split(2, 1 << 20)) == (3, [("1-a1", 3, 3)])  # one source row, though it is larger
    assert rows_of(splitter.next_split(2, 1 << 20)) == (1, [("2.0-a1", 0, 1)])
    assert rows_of(splitter.next_split(2, 1 << 20)) == (3, [("2.0-a1", 1, 2), ("2.1-a1", 0, 1)])
    assert rows_of(splitter.next_split(9, 1 << 20)) == (2, [("2.1-a1", 1, 1), ("3-a1", 0, 1)])
    assert splitter.next_split(9, 1 << 20) == End()


def test_the_rows_of_a_stage_that_gathers_are_source_rows(ledger: Ledger) -> None:
    splitter = source(ledger, SHARDS, gathers=True).splitter("")
    assert rows_of(splitter.next_split(4, 1 << 20)) == (4, [("1-a1", 0, 6), ("2.0-a1", 0, 1)])
    assert rows_of(splitter.next_split(1, 1 << 20)) == (1, [("2.0-a1", 1, 2), ("2.1-a1", 0, 1)])
    assert rows_of(splitter.next_split(9, 15)) == (1, [("2.1-a1", 1, 1)])
    assert rows_of(splitter.next_split(9, 15)) == (1, [("3-a1", 0, 1)])


def test_what_is_behind_a_shard_that_is_not_settled_waits(ledger: Ledger) -> None:
    splitter = source(ledger, [SHARDS[0], SHARDS[1], None, SHARDS[3]], gathers=True).splitter("")
    assert rows_of(splitter.next_split(9, 1 << 20)) == (3, [("1-a1", 0, 6)])
    assert splitter.next_split(9, 1 << 20) == NotYet("2 0")


def test_results_without_borders_are_not_cut(ledger: Ledger) -> None:
    with pytest.raises(DamagedData, match="where source rows begin"):
        source(ledger, SHARDS, gathers=True, noted=False).splitter("")


@pytest.mark.parametrize("gathers", [False, True])
def test_parts_of_a_shard_are_read_before_its_last_one_is_settled_but_for_their_last_source_row(
    ledger: Ledger, *, gathers: bool
) -> None:
    found = source(ledger, [[[1, 1], [2, 3], None], [[9]]], gathers=gathers)
    splitter = found.splitter("")
    first = splitter.next_split(100, 1 << 20)
    assert rows_of(first) == (2 if gathers else 3, [("0.0-a1", 0, 2), ("0.1-a1", 0, 1)])
    assert isinstance(first, InputSplit)
    assert splitter.next_split(100, 1 << 20) == NotYet(first.cursor)
    keys, redis = ledger._store.keys, ledger._store.redis
    redis.hdel(keys.borders(JOB, 0), "0.0")  # the next stage has settled it
    again = source(ledger, [[None, [2, 3], [3, 4]], [[9]]], gathers=gathers).splitter(first.cursor)
    assert rows_of(again.next_split(100, 1 << 20)) == (
        3 if gathers else 4,
        [("0.1-a1", 1, 1), ("0.2-a1", 0, 2), ("1-a1", 0, 1)],
    )
    assert again.next_split(100, 1 << 20) == NotYet("2 0")
