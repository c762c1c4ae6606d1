"""Rows compared with a table by jobs, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import JobFailed
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    points = np.random.default_rng(seed).standard_normal((count, 12)).astype(np.float32)
    return [{"id": f"r{n}", "embedding": point.tolist()} for n, point in enumerate(points)]


def nearest(rows: list[dict[str, Any]], base: list[dict[str, Any]], k: int) -> list[list[str]]:
    one, other = (np.array([row["embedding"] for row in some]) for some in (rows, base))
    one, other = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (one, other))
    return [[base[place]["id"] for place in row] for row in np.argsort(-(one @ other.T), axis=1)[:, :k]]


@pytest.mark.parametrize("kind", ["output", "sink"])
def test_rows_find_their_nearest_in_the_results_of_another_job(
    client: batchmill.Client, tmp_path: Path, kind: str
) -> None:
    base, rows = rows_of(700, 1), rows_of(300, 2)
    to = tmp_path / ("base" if kind == "output" else "base.lance")
    where: dict[str, Any] = {"output": to} if kind == "output" else {"sink": {"to": str(to), "id": "id"}}
    client.submit("echo", base, **where).wait(GRACE_S)
    rows[7]["embedding"] = [1.0]
    params = {"base": str(to), "k": 3, "columns": ["id"]}
    job = client.submit("knn", rows, params=params).wait(GRACE_S)
    (letter,) = job.dead_letters()
    assert (letter.index, letter.message) == (7, "its vector has 1 numbers, expected 12.")
    good = rows[:7] + rows[8:]
    found = list(job.results())
    assert [row["id"] for row in found] == [row["id"] for row in good]
    assert [[one["id"] for one in row["neighbors"]] for row in found] == nearest(good, base, 3)

    joined = client.submit("knn_join", pa.Table.from_pylist(good), params=params, carry=["id"]).wait(GRACE_S).to_table()
    pairs = list(zip(joined["id"].to_pylist(), joined["base_id"].to_pylist(), strict=True))
    expected = nearest(good, base, 3)
    assert pairs == [(row["id"], other) for row, others in zip(good, expected, strict=True) for other in others]


def test_a_base_that_is_not_there_ends_the_job_with_its_name(client: batchmill.Client, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="nowhere"):
        client.submit("knn", rows_of(2, 1), params={"base": str(tmp_path / "nowhere")}).wait(GRACE_S)
