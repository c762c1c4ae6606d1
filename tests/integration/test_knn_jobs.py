"""Rows compared with a table by jobs, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Stage
from batchmill.errors import Conflict, InvalidParams, InvalidRows
from support.waiting import GRACE_S, until

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "nowhere"}, "nowhere"),
        ({"base": "nowhere.lance"}, "no Lance table .*nowhere.lance"),
        ({"columns": ["id", "idd"]}, "'columns' names the column 'idd', which .*base.lance does not have"),
        ({"base_vector": "vectors"}, "'base_vector' names the column 'vectors'"),
        ({"vector": "n"}, "'vector' names the column 'n'"),
        ({"key": "doc"}, "'key' names the column 'doc'"),
        ({"version": 7}, "no version 7 of Lance table"),
    ],
)
def test_what_parameters_name_is_looked_up_when_a_job_is_submitted(
    client: batchmill.Client, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    lance.write_dataset(pa.Table.from_pylist(rows_of(3, 1)), str(tmp_path / "base.lance"))
    params = {"base": "base.lance", "key": "id"} | changes
    params["base"] = str(tmp_path / params["base"])
    with pytest.raises(InvalidParams, match=message):
        client.submit("knn", [{**row, "n": 1} for row in rows_of(2, 1)], params=params)


def test_a_key_that_the_rows_lack_is_refused_at_once_with_the_parameter(
    client: batchmill.Client, tmp_path: Path
) -> None:
    pq.write_table(pa.Table.from_pylist(rows_of(3, 1)), tmp_path / "base.parquet")
    rows = [{"embedding": row["embedding"]} for row in rows_of(2, 1)]
    with pytest.raises(InvalidRows, match="requires the column 'id'"):
        client.submit("knn", rows, params={"base": str(tmp_path / "base.parquet"), "key": "id"})


def test_columns_in_braces_of_a_prompt_are_looked_up_when_a_job_is_submitted(client: batchmill.Client) -> None:
    for params in ({"prompt": "Summarise: {body}"}, {"prompt": "{text}", "system": "{body}"}, {"messages": "body"}):
        with pytest.raises(InvalidRows, match="'chat' requires the column 'body'"):
            client.submit("chat", [{"text": "a"}], params={"model": "package:none", **params})


@pytest.mark.parametrize("place", ["between stages", "last stage", "sink"])
def test_the_base_may_be_what_the_service_keeps_of_a_job(client: batchmill.Client, tmp_path: Path, place: str) -> None:
    base, rows = rows_of(700, 1), rows_of(40, 2)
    stages = [Stage("echo", name="vectors", keep=place != "last stage"), Stage("echo", name="more")]
    where: dict[str, Any] = {"between stages": {"output": tmp_path / "out"}, "last stage": {}}.get(
        place, {"sink": {"to": str(tmp_path / "base.lance"), "id": "id", "name": "kept-base"}}
    )
    if place == "last stage":
        stages = stages[:1]
    first = client.submit(rows=base, stages=stages, **where).wait(GRACE_S)
    name = f"job:{first.id}" + ("" if place == "last stage" else "/vectors")
    params = {"base": name, "k": 3}
    job = client.submit("knn", rows, params=params).wait(GRACE_S)
    found = list(job.results())
    assert [[one["id"] for one in row["neighbors"]] for row in found] == nearest(rows, base, 3)
    assert all(list(one) == ["distance", "id"] for row in found for one in row["neighbors"])
    joined = client.submit("knn_join", rows, params=params).wait(GRACE_S).to_table()
    assert joined["base_id"].to_pylist() == [other for others in nearest(rows, base, 3) for other in others]


def test_results_that_a_base_names_must_be_there_and_stay_while_the_job_runs(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows = rows_of(20, 1)
    stages = [Stage("echo", name="a"), Stage("echo", name="b", keep=True), Stage("echo", name="c")]
    first = client.submit(rows=rows, stages=stages, output=tmp_path / "out").wait(GRACE_S)

    def refused(error: type[Exception], message: str, **params: Any) -> None:
        with pytest.raises(error, match=message):
            client.submit("knn", rows, params=params)

    refused(InvalidParams, "job-none", base="job:job-none")
    refused(InvalidParams, "no stage 'bb'", base=f"job:{first.id}/bb")
    refused(InvalidParams, "are in its output", base=f"job:{first.id}")
    refused(Conflict, "stage 'a' of job .* are deleted", base=f"job:{first.id}/a")
    refused(InvalidParams, "have no versions", base=f"job:{first.id}/b", version=1)
    refused(InvalidParams, "'columns' names the column 'idd'", base=f"job:{first.id}/b", columns=["idd"])

    params = {"base": f"job:{first.id}/b"}
    waiting = client.submit("knn", rows, params=params, pool="nobody")
    with pytest.raises(Conflict, match="other jobs read its results"):
        first.delete()
    waiting.cancel()
    until(lambda: waiting.status().state.is_final, "the job is cancelled")
    waiting.delete()
    first.delete()
    refused(InvalidParams, first.id, **params)


def test_a_base_is_read_again_after_a_replay_has_added_to_it(client: batchmill.Client, tmp_path: Path) -> None:
    rows = [{**row, "id": number} for number, row in enumerate(rows_of(20, 1))]
    stages = [Stage("reluctant", name="a", cure=str(tmp_path / "a"), every=5, keep=True), Stage("echo", name="b")]
    first = client.submit(rows=rows, stages=stages, output=tmp_path / "out").wait(GRACE_S)
    params = {"base": f"job:{first.id}/a", "k": 1, "columns": ["id"]}

    def found() -> list[int]:
        job = client.submit("knn", rows, params=params).wait(GRACE_S)
        return [row["neighbors"][0]["id"] for row in job.results()]

    before = found()
    (tmp_path / "a").touch()
    first.replay(stage="a").wait(GRACE_S)
    assert [number for number, nearest in enumerate(before) if nearest != number] == [0, 5, 10, 15]
    assert found() == list(range(20))
