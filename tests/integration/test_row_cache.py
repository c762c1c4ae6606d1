"""The row cache: what is found, what is kept, what makes room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.ledger import Ledger
from batchmill.ledger.workers.row_cache import MIN_BYTES, Limits
from batchmill.operators.registration import REGISTRY
from batchmill_coordinator.roles.cache_sweep import clear_row_cache, sweep_row_cache
from batchmill_worker.row_cache import cache as row_cache
from support.operators import tally_operators
from support.row_mill import AMPLE, FlakyBlobs, Mill, blobs, mill

if TYPE_CHECKING:
    from pathlib import Path

    import redis

__all__ = ["blobs", "mill"]


def test_rows_that_were_computed_before_are_not_computed_again(mill: Mill) -> None:
    mill.lengths(["a", "bb", ""])
    assert mill.computed == ["", "a", "bb"]
    result = mill.run(["bb", "ccc", "a", ""])
    assert mill.computed == ["ccc"]
    assert result.table["length"].to_pylist() == [2, 3, 1, None]
    assert result.cached is not None
    assert result.cached.tolist() == [0, 2, 3]
    stats = mill.ledger.row_cache.stats()
    assert (stats.entries, stats.segments, stats.hits, stats.misses) == (4, 2, 3, 4)
    mill.lengths(["", "ccc", "bb", "a"])
    assert mill.computed == []


def test_equal_rows_of_a_shard_are_computed_once_each_with_its_own_columns(mill: Mill) -> None:
    mill.lengths(["a", "bb", "a", "a", "bb"])
    assert mill.computed == ["a", "bb"]


def test_rows_that_are_kept_are_found_by_another_worker(mill: Mill) -> None:
    mill.lengths(["a", "bb"])
    other = Mill(mill.ledger, mill.blobs, mill.log)
    other.lengths(["bb", "a"])
    assert other.computed == ["a", "bb"]  # by the first


def test_other_parameters_another_version_and_other_code_compute_again(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = REGISTRY.get("tally")
    assert definition is not None
    mill.lengths(["a"])
    mill.lengths(["a"], factor=1)  # the default
    assert mill.computed == ["a"]
    mill.lengths(["a"], factor=2)
    assert mill.computed == ["a"]
    mill.lengths(["a"], definition=replace(definition, version="2"))
    assert mill.computed == ["a"]
    monkeypatch.setattr(tally_operators.Tally, "fingerprint", lambda _: "other weights", raising=False)
    mill.lengths(["a"])
    assert mill.computed == ["a"]
    mill.lengths(["a"], definition=replace(definition, code="edited"))
    assert mill.computed == ["a"]


def test_rows_make_any_number_of_results_and_are_found_with_all_of_them(mill: Mill) -> None:
    texts = ["one two", "", "three", "one two"]
    first = mill.run(texts, "tally_words")
    assert mill.computed == ["", "one two", "three"]
    second = mill.run(texts, "tally_words")
    assert mill.computed == []
    for result in (first, second):
        assert result.table["word"].to_pylist() == ["one", "two", "three", "one", "two"]
        assert result.sources.tolist() == [0, 0, 2, 3, 3]
        assert result.settled.tolist() == [0, 1, 2, 3]


def test_rows_of_an_operator_that_makes_no_column_are_known_too(mill: Mill) -> None:
    for texts in (["a", "b"], ["b", "a", "b"], ["b", "c", "b"]):
        assert mill.run(texts, "tally_nothing").table.to_pydict() == {"text": texts}
    assert mill.computed == ["a", "b", "c"]


def test_rows_given_up_on_are_never_kept_and_their_equals_share_their_fate(mill: Mill) -> None:
    for _ in range(2):
        result = mill.run(["a", "bad", "bb", "bad"])
        assert [(row.index, row.row) for row in result.dead] == [
            (1, {"id": 1, "text": "bad"}),
            (3, {"id": 3, "text": "bad"}),
        ]
        assert result.table["text"].to_pylist() == ["a", "bb"]
        assert mill.computed in (["a", "bad", "bb"], ["bad"])
    assert mill.ledger.row_cache.stats().entries == 2
    mill.run(["bad"])
    assert len(mill.files) == 1


def test_what_a_stopped_shard_has_done_is_kept(mill: Mill) -> None:
    texts = [f"text {number}" for number in range(40)]
    asked = iter([False, True])
    result = mill.run(texts, should_stop=lambda: next(asked, True))
    assert result.stopped
    assert 0 < result.rows_settled < 40
    done = mill.computed
    mill.lengths(texts)
    assert mill.computed == sorted(set(texts) - set(done))


def test_an_operator_that_came_to_be_no_function_of_a_row_is_not_cached_any_more(mill: Mill) -> None:
    definition = REGISTRY.get("tally")
    assert definition is not None
    mill.lengths(["a", "a"])
    mill.lengths(["a", "a"], definition=replace(definition, cacheable=False))
    assert mill.computed == ["a", "a", "a"]


def test_segments_unused_for_longest_make_room_whole_and_their_blobs_go(
    redis_client: redis.Redis, prefix: str, blobs: FlakyBlobs, tmp_path: Path
) -> None:
    def at(second: int) -> Mill:
        later = Ledger(redis_client, prefix, now_ms=1_000_000 + second * 1000)
        return Mill(later, blobs, tmp_path / "log", Limits(3 * MIN_BYTES, 1000))

    for second, text in enumerate(["a", "b", "c"]):
        at(second).lengths([text])
    at(3).lengths(["a"])  # now "b" is the one unused for longest
    at(4).lengths(["d"])
    assert at(5).computed == ["a", "b", "c", "d"]
    stats = at(5).ledger.row_cache.stats()
    assert (stats.entries, stats.segments, stats.bytes, stats.evicted) == (3, 3, 3 * MIN_BYTES, 1)
    assert len(at(5).files) == 4
    sweep_row_cache(at(5).ledger, blobs)
    assert len(at(5).files) == 3
    at(6).lengths(["a", "c", "d"])
    assert at(7).computed == []
    at(8).lengths(["b"])
    assert at(9).computed == ["b"]


def test_the_index_never_has_more_rows_than_it_may(mill: Mill) -> None:
    small = Mill(mill.ledger, mill.blobs, mill.log, Limits(1 << 30, 10))
    for number in range(12):
        small.lengths([f"{number} {n}" for n in range(4)])
        assert small.ledger.row_cache.stats().entries <= 10
    assert small.ledger.row_cache.stats().entries == 8
    small.lengths([str(n) for n in range(11)])  # too many for it
    assert small.ledger.row_cache.stats().entries == 8


def test_a_row_that_two_shards_computed_at_once_is_kept_once(mill: Mill) -> None:
    definition = REGISTRY.get("tally")
    assert definition is not None
    infer = tally_operators.Tally.infer

    def meanwhile(self: tally_operators.Tally, rows: list[dict[str, Any]]) -> list[Any]:
        patch.setattr(tally_operators.Tally, "infer", infer)
        mill.lengths(["a", "b"])
        return infer(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally_operators.Tally, "infer", meanwhile)
        mill.lengths(["b", "a"])
    assert mill.computed == ["a", "a", "b", "b"]
    assert mill.ledger.row_cache.stats().entries == 2
    assert mill.ledger.row_cache.stats().segments == 1


def test_a_cache_of_no_size_still_computes_equal_rows_once(mill: Mill) -> None:
    none = Mill(mill.ledger, mill.blobs, mill.log, Limits(0, 0))
    none.lengths(["a", "a"])
    none.lengths(["a"])
    assert (none.computed, none.files) == (["a", "a"], [])


def test_large_shards_are_asked_for_and_kept_in_pieces(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "MAX_ROWS_PER_CALL", 3)
    texts = [str(number % 8) for number in range(11)]
    mill.lengths(texts)
    assert mill.ledger.row_cache.stats().segments == 3
    mill.lengths([*texts[::-1], "new"])
    assert mill.computed == sorted([*map(str, range(8)), "new"])
    assert mill.ledger.row_cache.stats().segments == 4


def test_more_rows_than_a_script_takes_at_once_are_found_and_forgotten(mill: Mill) -> None:
    large = Mill(mill.ledger, mill.blobs, mill.log, Limits(1 << 30, 3000))
    texts = [str(number) for number in range(2500)]
    large.lengths(texts)
    large.lengths(texts[::-1])
    assert len(large.computed) == 2500
    large.lengths([f"other {number}" for number in range(1000)])
    assert large.ledger.row_cache.stats().entries == 1000


def test_clearing_empties_the_index_and_the_folder(mill: Mill) -> None:
    mill.lengths(["a", "b"])
    clear_row_cache(mill.ledger, mill.blobs)
    stats = mill.ledger.row_cache.stats()
    assert (stats.entries, stats.segments, stats.bytes, stats.hits, stats.misses) == (0, 0, 0, 0, 0)
    assert mill.files == []
    mill.lengths(["a", "b"])
    assert mill.computed == ["a", "a", "b", "b"]


def test_a_segment_written_while_the_cache_is_cleared_is_kept_or_missing(mill: Mill) -> None:
    index = mill.ledger.row_cache
    (_, segment) = index.find([b"d" * 16], b"writer")
    clear_row_cache(mill.ledger, mill.blobs)
    mill.blobs.put(f"cache/{segment.hex()}.arrow", b"whole")
    assert index.keep(segment, 1, [b"d" * 16], b"\0" * 8, AMPLE) == "kept"
    assert len(mill.files) == 1
