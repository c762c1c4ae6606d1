"""The results of a stage as the source of the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from batchmill.jobs.job import JobForm
from batchmill.jobs.shard import ShardId
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.encodings import write_settled
from batchmill.ledger.formats.settlement import Settled
from batchmill.sources.base import End, InputSplit, NotYet
from batchmill_coordinator.results.stage_source import MAX_PARTS, StageSource

if TYPE_CHECKING:
    from batchmill.ledger import Ledger

JOB = "job-1"
SPEC = JobForm(stages=[{"operator": "echo", "name": "first"}, {"operator": "echo"}]).spec()


def source(
    ledger: Ledger, results: list[int | None], *, planned: bool, live: int = 0, running: int = 0, **own: Any
) -> StageSource:
    """The source of the second stage. results: of each planned shard of the first; None: it is not settled.

    running: shards of the first. own: fields of the spec of the second.
    """
    keys, first_row = ledger._store.keys, 0
    for number, count in enumerate(results):
        if count is not None:
            settled = Settled(0, ShardId((number,)), 1, count, 0, 10 * count, first_row)
            ledger._store.redis.hset(keys.done(JOB, 0), str(number), write_settled(settled))
            first_row += count
    first = {
        b"shards_planned": len(results), b"planned": int(planned), b"rows_out": sum(filter(None, results)),
        b"shards_live": results.count(None), b"rows_done": first_row,
        b"shards_running": running,
    }  # fmt: skip
    hashes = [{name: str(value).encode() for name, value in first.items()}, {b"shards_live": str(live).encode()}]
    spec = SPEC.model_copy(update={"stages": (SPEC.stages[0], SPEC.stages[1].model_copy(update=own))})
    fields = {b"spec": spec.model_dump_json().encode(), b"state": b"running"}
    return StageSource(ledger, JobRecord.from_hashes(JOB, fields, hashes), 1, cast("Any", None))


def rows_of(split: object) -> list[tuple[str, int, int]]:
    assert isinstance(split, InputSplit)
    return [(piece.part, piece.start, piece.rows) for piece in split.slices]


def test_splits_join_and_cut_parts_in_order_and_pass_over_those_without_results(ledger: Ledger) -> None:
    found = source(ledger, [0, 3, 0, 2, 4], planned=True)
    splitter = found.splitter("")
    first = splitter.next_split(4, 1 << 20)
    assert rows_of(first) == [("1-a1", 0, 3), ("3-a1", 0, 1)]
    assert isinstance(first, InputSplit)
    assert rows_of(found.splitter(first.cursor).next_split(9, 1 << 20)) == [("3-a1", 1, 1), ("4-a1", 0, 4)]
    assert rows_of(splitter.next_split(9, 20)) == [("3-a1", 1, 1), ("4-a1", 0, 1)]
    assert rows_of(splitter.next_split(9, 1 << 20)) == [("4-a1", 1, 3)]
    assert splitter.next_split(9, 1 << 20) == End()


def test_what_is_behind_a_shard_that_is_not_settled_is_not_there_yet(ledger: Ledger) -> None:
    splitter = source(ledger, [0, 2, None, 5], planned=True).splitter("")
    assert rows_of(splitter.next_split(9, 1 << 20)) == [("1-a1", 0, 2)]
    assert splitter.next_split(9, 1 << 20) == NotYet("2 0")


def test_a_short_remainder_waits_while_the_next_stage_has_shards(ledger: Ledger) -> None:
    assert source(ledger, [2, None], planned=True, live=1).splitter("").next_split(9, 1 << 20) == NotYet()
    assert rows_of(source(ledger, [2, None], planned=True).splitter("").next_split(9, 1 << 20)) == [("0-a1", 0, 2)]
    assert rows_of(source(ledger, [2], planned=True, live=1).splitter("").next_split(9, 1 << 20)) == [("0-a1", 0, 2)]


def test_a_split_joins_a_bounded_number_of_parts(ledger: Ledger) -> None:
    splitter = source(ledger, [1] * (MAX_PARTS + 3), planned=True).splitter("")
    assert len(rows_of(splitter.next_split(9999, 1 << 20))) == MAX_PARTS
    assert len(rows_of(splitter.next_split(9999, 1 << 20))) == 3


def test_a_stage_of_large_shards_waits_while_the_one_before_it_is_at_work(ledger: Ledger) -> None:
    def split(results: list[int | None], running: int, rows: int = 9) -> object:
        found = source(ledger, results, planned=True, running=running, min_shard_rows=9)
        return found.splitter("").next_split(rows, 1 << 20)

    assert split([2, None], 1) == NotYet()
    assert rows_of(split([2, None], 0)) == [("0-a1", 0, 2)], "its buffer may be full"
    assert rows_of(split([2], 0)) == [("0-a1", 0, 2)]
    assert rows_of(split([2, 7, None], 1)) == [("0-a1", 0, 2), ("1-a1", 0, 7)]


def test_a_stage_that_takes_all_waits_and_takes_it_at_once_at_the_end(ledger: Ledger) -> None:
    parts: list[int | None] = [1, 0] * (MAX_PARTS + 1)
    assert source(ledger, [*parts, None], planned=True, takes_all=True).splitter("").next_split(1, 1) == NotYet()
    splitter = source(ledger, parts, planned=True, takes_all=True).splitter("")
    split = splitter.next_split(1, 1)
    assert len(rows_of(split)) == MAX_PARTS + 1
    assert splitter.next_split(1, 1) == End()
    assert isinstance(split, InputSplit)
    again = source(ledger, parts, planned=True, takes_all=True).splitter(split.cursor)
    assert again.next_split(1, 1) == End()
    assert source(ledger, [0, 0], planned=True, takes_all=True).splitter("").next_split(1, 1) == End()
