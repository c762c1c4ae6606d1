"""A sample of a source: any run of it costs what as many rows of the source cost, however the source is sorted."""

from __future__ import annotations

import math
import random

import numpy as np
import pyarrow as pa
import pytest

from batchmill.sources import InlineSource
from batchmill_coordinator.inspection import source_sample
from batchmill_coordinator.inspection.source_sample import alikeness, read_sample, row_sizes, spread_order


def lengths(count: int, cv: float, seed: int) -> list[int]:
    """Lengths of texts as people write them: log-normal."""
    rng, sigma = random.Random(seed), math.sqrt(math.log(1 + cv * cv))
    return [max(int(rng.lognormvariate(math.log(600) - sigma * sigma / 2, sigma)), 1) for _ in range(count)]


def table_of(sizes: list[int]) -> pa.Table:
    return pa.table({"id": range(len(sizes)), "text": ["x" * size for size in sizes]})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 1023, 1024, 1025])
def test_the_order_has_every_row_once(count: int) -> None:
    sizes = np.array(lengths(count, 1.5, 1), dtype=np.int64)
    assert sorted(spread_order(sizes).tolist()) == list(range(count))


@pytest.mark.parametrize("cv", [0.7, 1.5])
@pytest.mark.parametrize("start", [0, 128, 5000])
def test_any_run_of_the_order_has_small_and_large_rows_as_all_of_them(cv: float, start: int) -> None:
    sizes = np.array(lengths(20_000, cv, 7), dtype=np.int64)
    taken = sizes[spread_order(sizes)[start : start + 256]]
    assert taken.mean() == pytest.approx(sizes.mean(), rel=0.05)


@pytest.mark.parametrize("order", ["none", "length"])
def test_a_source_of_any_order_is_known_from_runs_at_many_places(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(source_sample, "MAX_ROWS", 2000)
    sizes = lengths(40_000, 0.7, 3)
    if order == "length":
        sizes.sort()
    found = read_sample(InlineSource(table_of(sizes)))
    assert (found.rows, found.is_exact, found.is_complete, found.unreadable) == (40_000, True, True, 0)
    assert 1900 <= found.read <= 2100
    assert found.table.num_rows == found.read
    assert len(set(found.table["id"].to_pylist())) == found.read
    assert row_sizes(found.table).mean() == pytest.approx(np.mean(sizes), rel=0.05)


def test_a_small_source_is_read_completely() -> None:
    found = read_sample(InlineSource(table_of([5, 1, 3])))
    assert (found.rows, found.read) == (3, 3)
    assert sorted(found.table["text"].to_pylist()) == ["x", "xxx", "xxxxx"]


def test_the_size_of_a_row_is_that_of_its_texts_bytes_and_lists() -> None:
    table = pa.table(
        {
            "text": ["ab", None, "ü"],
            "blob": pa.array([b"", b"123", None]),
            "list": pa.array([[1.0, 2.0], None, []]),
            "kind": pa.array(["x", "long", "x"]).dictionary_encode(),
            "id": [1, 2, 3],
        }
    )
    assert row_sizes(table).tolist() == [2 + 2 + 1, 3 + 4, 2 + 1]


def test_rows_are_alike_as_far_as_they_differ_between_places_only() -> None:
    sizes = np.random.default_rng(3).lognormal(5, 1, 6400).astype(np.int64)
    assert alikeness(np.sort(sizes)) == pytest.approx(1, abs=0.01)
    assert alikeness(sizes) == pytest.approx(0, abs=0.02)
    assert alikeness(np.full(6400, 7)) == alikeness(np.sort(sizes)[:100]) == 0  # all are one size; too few to see it
    found = read_sample(InlineSource(table_of(sorted(sizes.tolist()))))
    assert found.alike == alikeness(np.sort(sizes))
