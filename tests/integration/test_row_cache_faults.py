"""The row cache when something is wrong with it, or with the rows: no row fails for it, and none is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import OperatorFailed
from batchmill.ledger import Ledger
from batchmill.ledger.scripting.connection import connect
from batchmill.ledger.workers.row_cache import LOOSE_TTL_MS
from batchmill_coordinator.roles.cache_sweep import adopt_row_cache, sweep_row_cache
from support.operators import tally_operators
from support.row_mill import AMPLE, FlakyBlobs, Mill, blobs, mill

if TYPE_CHECKING:
    import redis

__all__ = ["blobs", "mill"]


@pytest.mark.parametrize("traps", [["trap"], ["trap", "trap 2", "trap 3"]])
def test_rows_that_always_fail_are_to_blame_themselves_where_others_are_known(
    mill: Mill, monkeypatch: pytest.MonkeyPatch, traps: list[str]
) -> None:
    monkeypatch.setattr(tally_operators.Tally, "infer", lambda _, rows: breaking_on("trap", rows))
    for _ in range(2):
        result = mill.run(["a", *traps, "b"])
        assert [row.row["text"] for row in result.dead] == traps
        assert result.table["text"].to_pylist() == ["a", "b"]
    assert mill.ledger.row_cache.stats().entries == 2


def test_an_operator_that_fails_on_everything_is_to_blame_whatever_is_known(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.lengths(["a", "b"])
    monkeypatch.setattr(tally_operators.Tally, "infer", lambda _, rows: breaking_on("", rows))
    with pytest.raises(OperatorFailed):
        mill.run(["a", "c", "b", "d"])


def breaking_on(start: str, rows: list[dict[str, Any]]) -> list[Any]:
    if any(row["text"].startswith(start) for row in rows):
        raise ValueError("trapped")
    return [{"length": 1} for _ in rows]


def test_a_segment_that_was_deleted_counts_as_missing_and_is_forgotten(mill: Mill) -> None:
    mill.lengths(["a", "b"])
    mill.blobs.delete(mill.files[0])
    assert mill.computed == ["a", "b"]
    mill.lengths(["a", "b"])
    assert mill.computed == ["a", "b"]
    mill.lengths(["a", "b"])
    assert mill.computed == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_segment_that_was_cut_short_counts_as_missing(mill: Mill, share: float) -> None:
    mill.lengths(["a", "b"])
    data = mill.blobs.get(mill.files[0]).to_pybytes()
    mill.blobs.put(mill.files[0], data[: int(len(data) * share)])
    assert mill.computed == ["a", "b"]
    mill.lengths(["a", "b"])
    assert mill.computed == ["a", "b"]
    mill.lengths(["a", "b"])
    assert mill.computed == []


def test_a_segment_of_other_rows_is_not_believed(mill: Mill) -> None:
    mill.lengths(["aaa"])
    first = mill.blobs.get(mill.files[0]).to_pybytes()
    mill.lengths(["b"])
    for name in mill.files:
        mill.blobs.put(name, first)
    assert mill.computed == ["aaa", "b"]
    mill.lengths(["aaa", "b"])
    assert mill.computed == ["b"]


def test_an_index_of_nonsense_fails_no_row(mill: Mill, redis_client: redis.Redis) -> None:
    keys = mill.ledger.row_cache._keys
    mill.lengths(["a", "b"])
    for digest in redis_client.hkeys(keys.cache_index()):
        redis_client.hset(keys.cache_index(), digest, b"nonsense")
    mill.lengths(["a", "b"])
    redis_client.delete(keys.cache_index())
    redis_client.set(keys.cache_index(), "no hash")
    mill.lengths(["a", "b"])
    assert mill.computed == ["a", "a", "a", "b", "b", "b"]
    # such an index is beyond what the fixture checks in the end
    redis_client.delete(keys.cache_index(), keys.cache_segments(), keys.cache_used(), keys.cache_loose())
    mill.blobs.delete_folder("cache")


def test_a_blob_store_that_is_away_fails_no_row(mill: Mill, blobs: FlakyBlobs) -> None:
    mill.lengths(["a"])
    blobs.away = True
    mill.lengths(["a", "b"])
    blobs.away = False
    assert mill.computed == ["a", "a", "b"]
    mill.lengths(["a", "b"])
    assert mill.computed == ["b"]


def test_a_ledger_that_is_away_fails_no_row(mill: Mill) -> None:
    away = Mill(Ledger(connect("unix:///nonexistent/socket"), "x:"), mill.blobs, mill.log)
    away.lengths(["a", "b", "a"])
    assert away.computed == ["a", "b"]


def test_results_of_another_type_than_the_cache_has_are_computed_anew(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill.lengths(["a"])
    monkeypatch.setattr(tally_operators.Tally, "infer", lambda _, rows: [{"length": "long"} for _ in rows])
    assert mill.run(["a", "b"]).table["length"].to_pylist() == ["long", "long"]


def test_a_segment_whose_writer_died_is_swept_when_its_time_is_over(
    mill: Mill, redis_client: redis.Redis, prefix: str
) -> None:
    segment = b"orphan"
    assert mill.ledger.row_cache.find([b"d" * 16], segment).segment == segment
    mill.blobs.put(f"cache/{segment.hex()}.arrow", b"half done")
    sweep_row_cache(mill.ledger, mill.blobs)
    assert len(mill.files) == 1
    day_after = Ledger(redis_client, prefix, now_ms=mill.ledger.now_ms() + LOOSE_TTL_MS + 1000)
    sweep_row_cache(day_after, mill.blobs)
    assert mill.files == []
    assert day_after.row_cache.loose(day_after.now_ms()) == []
    # its writer comes back after all
    assert mill.ledger.row_cache.keep(segment, 1, [b"d" * 16], b"\0" * 8, AMPLE) == "gone"


def test_a_segment_that_a_rolled_back_ledger_does_not_know_is_swept_after_a_day(
    mill: Mill, redis_client: redis.Redis, prefix: str
) -> None:
    mill.lengths(["a", "b"])
    known = mill.files
    mill.blobs.put(f"cache/{b'orphan'.hex()}.arrow", b"written just before")
    mill.blobs.put("cache/readme", b"nobody's")
    adopt_row_cache(mill.ledger, mill.blobs)
    sweep_row_cache(mill.ledger, mill.blobs)
    assert len(mill.blobs.list("cache")) == len(known) + 2
    day_after = Ledger(redis_client, prefix, now_ms=mill.ledger.now_ms() + LOOSE_TTL_MS + 1000)
    sweep_row_cache(day_after, mill.blobs)
    assert mill.blobs.list("cache") == [*known, "cache/readme"]
    mill.blobs.delete("cache/readme")
    assert mill.computed == ["a", "b"]
    mill.lengths(["a", "b"])
    assert mill.computed == []


def test_a_name_of_a_segment_that_is_taken_is_not_given_again(mill: Mill) -> None:
    index = mill.ledger.row_cache
    assert index.find([b"d" * 16], b"taken!").segment == b"taken!"
    assert index.find([b"e" * 16], b"taken!").segment == b""
    assert index.keep(b"taken!", 1, [b"d" * 16], b"\0" * 8, AMPLE) == "kept"
    assert index.find([b"e" * 16], b"taken!").segment == b""
    index.clear()
