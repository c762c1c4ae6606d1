"""Equal rows and rows that are known, without a cache behind them: results must be those of a plain run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.operators.contract import OperatorDefinition, RowError
from batchmill.operators.registration import REGISTRY as OPERATORS
from batchmill.operators.registration import operator
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.row_cache.plan import Distinct, Piece, Shared, computed
from batchmill_worker.row_cache.segments import BrokenSegment, by_segment, decode_segment, encode_segment, pick
from batchmill_worker.runtime.device import DeviceLock

if TYPE_CHECKING:
    from batchmill_worker.engine.shard_result import ShardResult

SEGMENT = b"\0name\xff"


@operator("plan_single", batch_size=3)
def single(rows: list[dict[str, Any]]) -> list[Any]:
    """One result a row; none for "bad"."""
    return [RowError("bad") if row["k"] == "bad" else {"up": row["k"].upper(), "n": len(row["k"])} for row in rows]


@operator("plan_many", batch_size=3, expands=True)
def many(rows: list[dict[str, Any]]) -> list[Any]:
    """A result for each letter; none for "bad"."""
    return [RowError("bad") if row["k"] == "bad" else [{"up": letter} for letter in row["k"]] for row in rows]


def definition(name: str) -> OperatorDefinition:
    found = OPERATORS.get(name)
    assert found is not None
    return found


def run(name: str, table: pa.Table, carry: list[str] | None = None) -> ShardResult:
    found = definition(name)
    return BatchExecutor(DeviceLock()).run(
        ReadyOperator(found, found.build({})), table, ShardTask(carry=carry, has_succeeded=True)
    )


def shard(keys: list[str]) -> pa.Table:
    return pa.table({"id": pa.array(range(len(keys)), pa.int64()), "k": pa.array(keys, pa.string())})


def shared(name: str, keys: list[str], known: set[str], carry: list[str] | None) -> ShardResult:
    """A run in which what is `known` comes out of a segment that another shard left."""
    table, digests = shard(keys), [key.encode().ljust(16) for key in keys]
    distinct = Distinct.of(digests)
    earlier = [n for n, digest in enumerate(distinct.digests) if digest.strip().decode() in known]
    found = [stored(name, distinct, earlier)] if earlier else []
    owners = found[0].owners if found else np.empty(0, dtype=np.int64)
    missing = np.setdiff1d(np.arange(len(distinct.digests)), owners)
    ran = run(name, table.take(distinct.firsts[missing]), carry)
    carried = table.column_names if carry is None else carry
    return Shared(definition(name), table, carried, distinct, found, missing).result(ran)


def stored(name: str, distinct: Distinct, earlier: list[int]) -> Piece:
    keys = [distinct.digests[n].strip().decode() for n in earlier]
    piece = computed(run(name, shard(keys)), np.arange(len(earlier)))
    digests = [distinct.digests[earlier[owner]] for owner in piece.owners.tolist()]
    table, places = encode_segment(piece, digests)
    index: list[bytes | None] = [None] * len(distinct.digests)
    for number, owner in enumerate(piece.owners.tolist()):
        index[earlier[owner]] = SEGMENT + places[number * 8 : number * 8 + 8]
    rows, starts, counts = by_segment(index, expands=definition(name).expands).get(SEGMENT, ([], [], []))
    wanted = [distinct.digests[row] for row in rows]
    return pick(table, np.array(rows, dtype=np.int64), np.array(starts, int), np.array(counts, int), wanted)


keys = st.lists(st.sampled_from(["a", "bb", "ccc", "bad", "", "dd"]), max_size=14)


@pytest.mark.parametrize("name", ["plan_single", "plan_many"])
@pytest.mark.parametrize("carry", [None, ["id"], []])
@settings(max_examples=30)
@given(keys=keys, known=st.sets(st.sampled_from(["a", "bb", "bad", "", "none"])))
def test_results_are_those_of_a_plain_run_whatever_is_known(
    name: str, carry: list[str] | None, keys: list[str], known: set[str]
) -> None:
    plain, result = run(name, shard(keys), carry), shared(name, keys, known, carry)

    done = [key for key in keys if key != "bad"]
    if any(done):  # else there is no result, and which columns there are cannot be told
        assert result.table.to_pylist() == plain.table.to_pylist()
        assert result.table.column_names == plain.table.column_names or not result.table.num_rows
    np.testing.assert_array_equal(result.sources, plain.sources)
    np.testing.assert_array_equal(result.settled, plain.settled)
    assert [(row.index, row.row, row.failure.message) for row in result.dead] == [
        (row.index, row.row, row.failure.message) for row in plain.dead
    ]
    seen = known.copy()
    expected = []
    for row, key in enumerate(keys):
        if key in seen and key != "bad":
            expected.append(row)
        seen.add(key)
    assert result.cached is not None
    assert result.cached.tolist() == expected


def test_each_distinct_row_is_at_the_place_of_the_first_of_its_equals() -> None:
    distinct = Distinct.of([b"b", b"a", b"b", b"c", b"a"])
    assert distinct.digests == [b"b", b"a", b"c"]
    assert distinct.firsts.tolist() == [0, 1, 3]
    assert distinct.places.tolist() == [0, 1, 0, 2, 1]


def test_a_part_of_a_piece_has_the_results_of_its_rows() -> None:
    piece = Piece(np.array([0, 2, 5, 6]), np.array([2, 0, 1, 3]), pa.table({"x": ["a", "b", "c", "d", "e", "f"]}))
    part = piece.part(2, 6)
    assert (part.owners.tolist(), part.counts.tolist(), part.results.to_pydict()) == ([2, 5], [0, 1], {"x": ["c"]})


def test_results_of_operators_that_make_no_column_can_be_cached() -> None:
    nothing = pa.table({"x": [1, 2]}).select([])
    table, places = encode_segment(Piece(np.array([0, 1]), np.array([1, 1]), nothing), [b"a" * 16, b"b" * 16])
    assert (table.num_rows, len(places)) == (2, 16)
    piece = pick(table, np.array([4]), np.array([1]), np.array([1]), [b"b" * 16])
    assert piece.results.num_columns == 0


def segment() -> tuple[pa.Table, bytes]:
    return encode_segment(Piece(np.array([0, 1]), np.array([1, 2]), pa.table({"x": [1, 2, 3]})), [b"a" * 16, b"b" * 16])


@pytest.mark.parametrize(
    ("start", "count", "digest"), [(0, 1, b"b" * 16), (1, 2, b"a" * 16), (2, 2, b"b" * 16), (2**31, 2**31, b"b" * 16)]
)
def test_an_index_that_leads_to_other_rows_is_not_believed(start: int, count: int, digest: bytes) -> None:
    with pytest.raises(BrokenSegment):
        pick(segment()[0], np.array([0]), np.array([start]), np.array([count]), [digest])


def test_a_file_without_digests_is_no_segment() -> None:
    with pytest.raises(BrokenSegment, match="no column of digests"):
        pick(pa.table({"x": [1]}), np.array([0]), np.array([0]), np.array([1]), [b"a" * 16])


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"no arrow at all" * 100])
def test_what_is_no_arrow_file_is_no_segment(data: bytes) -> None:
    with pytest.raises(BrokenSegment):
        decode_segment(pa.py_buffer(data))


def test_entries_that_cannot_be_are_passed_over() -> None:
    good = SEGMENT + (3).to_bytes(4, "little") + (1).to_bytes(4, "little")
    two = SEGMENT + (3).to_bytes(4, "little") + (2).to_bytes(4, "little")
    assert by_segment([None, b"", b"garbage", good, two], expands=False) == {SEGMENT: ([3], [3], [1])}
    assert by_segment([good, two], expands=True) == {SEGMENT: ([0, 1], [3, 3], [1, 2])}
