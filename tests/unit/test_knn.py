"""`knn` and `knn_join` against a comparison of all pairs in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batchmill.errors import InvalidParams
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import Locations
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.operators.knn import PREFIX
from batchmill_worker.vectors import base_vectors, products, tables
from support.text_models import definition_of

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.operators.contract import Expansion, PartialResult

    Rows = np.ndarray[Any, np.dtype[np.float32]]

METRICS = ["cosine", "l2", "dot"]


def vectors(count: int, dimension: int = 24, seed: int = 0) -> Rows:
    """Points around some centres, of different lengths."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((20, dimension))
    points = centres[draw.integers(0, 20, count)] + 0.3 * draw.standard_normal((count, dimension))
    return (points * draw.uniform(0.5, 2, (count, 1))).astype(np.float32)


def table_of(values: Rows | list[Any], **columns: Any) -> pa.Table:
    column = pa.array([None if row is None else list(map(float, row)) for row in values], pa.list_(pa.float32()))
    return pa.table({"id": [f"b{n}" for n in range(len(values))], "embedding": column} | columns)


def all_distances(queries: Rows, base: Rows, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    one, other = queries.astype(np.float64), base.astype(np.float64)
    if metric == "l2":
        return np.asarray(np.sqrt(((one[:, None] - other[None]) ** 2).sum(2)))
    if metric == "cosine":
        one = one / np.linalg.norm(one, axis=1, keepdims=True)
        other = other / np.linalg.norm(other, axis=1, keepdims=True)
        return np.asarray(1 - one @ other.T)
    return np.asarray(-(one @ other.T))


@pytest.fixture
def context(tmp_path: Path) -> SetupContext:
    locations = Locations([str(tmp_path)])
    return SetupContext(locations, blobs=BlobStore.open(str(tmp_path / "blobs"), locations))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and tiles for few rows."""
    monkeypatch.setattr("batchmill_worker.vectors.nearest.TILE_ROWS", 16)
    monkeypatch.setattr("batchmill_worker.vectors.nearest.TILE_COLUMNS", 64)
    monkeypatch.setattr("batchmill_worker.vectors.nearest.MAX_LIKELY", 2_000)
    monkeypatch.setattr(products, "PAIRS_AT_ONCE", 50)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 40_000)


def run(context: SetupContext, rows: pa.Table, name: str = "knn", **params: Any) -> Any:
    operator: Any = definition_of(name).build(params)
    with context.active():
        operator.setup("cpu")
    result = operator.finish(operator.infer(rows))
    operator.teardown()
    return result


def neighbors(result: PartialResult) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = result.results["neighbors"].to_pylist()
    return found


def check(found: list[list[dict[str, Any]]], queries: Rows, base: Rows, metric: str, k: int) -> None:
    """Each list has the k nearest rows, each with its distance; which of equally near ones does not matter."""
    expected = all_distances(queries, base, metric)
    assert len(found) == len(queries)
    slack = 2e-6 * max(1.0, float(np.abs(expected).max()))
    for row, distances in zip(found, expected, strict=True):
        places = [int(one["id"][1:]) for one in row]
        assert len(set(places)) == len(places) == min(k, len(base))
        got = np.array([one["distance"] for one in row])
        assert np.all(np.diff(got) >= 0)
        np.testing.assert_allclose(got, distances[places], rtol=1e-4, atol=slack)
        np.testing.assert_allclose(got, np.sort(distances)[:k], rtol=1e-4, atol=slack)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 400])
@pytest.mark.parametrize("place", ["folder", "lance"])
def test_the_nearest_rows_are_those_of_a_comparison_of_all_pairs(
    tmp_path: Path, context: SetupContext, metric: str, k: int, place: str
) -> None:
    base, queries = vectors(300, seed=1), vectors(70, seed=2)
    if place == "lance":
        to = tmp_path / "base.lance"
        lance.write_dataset(table_of(base), str(to), max_rows_per_file=110)
    else:
        to = tmp_path / "base"
        to.mkdir()
        for number in range(3):
            pq.write_table(table_of(base).slice(number * 100, 100), to / f"part-{number}.parquet", row_group_size=30)
    found = run(context, table_of(queries), base=str(to), k=k, metric=metric)
    check(neighbors(found), queries, base, metric, k)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("has_half", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_the_number_format_of_the_products_changes_nothing(
    tmp_path: Path, context: SetupContext, monkeypatch: pytest.MonkeyPatch, metric: str, *, has_half: bool
) -> None:
    monkeypatch.setattr(products, "has_fast_half", lambda *_: has_half)
    centre = vectors(1, 128, seed=3)
    base = centre + 0.02 * vectors(500, 128, seed=4)  # much closer than bfloat16 can tell
    queries = centre + 0.02 * vectors(40, 128, seed=5)
    pq.write_table(table_of(base), tmp_path / "base.parquet")
    found = run(context, table_of(queries), base=str(tmp_path / "base.parquet"), k=7, metric=metric)
    check(neighbors(found), queries, base, metric, 7)


@pytest.mark.usefixtures("small_tiles")
def test_a_base_that_is_too_large_to_be_kept_is_read_for_each_batch(
    tmp_path: Path, context: SetupContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_vectors, "KEPT_BYTES", 50_000)
    base, queries = vectors(3_000, seed=1), vectors(33, seed=2)
    pq.write_table(table_of(base), tmp_path / "base.parquet", row_group_size=500)
    params: dict[str, Any] = {"base": str(tmp_path / "base.parquet"), "k": 5}
    check(neighbors(run(context, table_of(queries), **params)), queries, base, "cosine", 5)
    operator: Any = definition_of("knn").build(params)
    with context.active():
        operator.setup("cpu")
    assert operator.memory_bytes() == 0


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("metric", METRICS)
def test_of_equal_rows_the_first_are_taken_whichever_block_they_are_in(
    tmp_path: Path, context: SetupContext, metric: str
) -> None:
    base = np.tile(vectors(5, 100, seed=1), (60, 1))
    queries = vectors(5, 100, seed=1)
    pq.write_table(table_of(base), tmp_path / "base.parquet", row_group_size=70)
    params: dict[str, Any] = {"base": str(tmp_path / "base.parquet"), "k": 8, "metric": metric}
    found = neighbors(run(context, table_of(queries), **params))
    nearest = np.argsort(all_distances(queries, base, metric), axis=1, kind="stable")[:, :8]
    equal = all_distances(queries, base[:5], metric).argmin(1)
    assert [row[0]["distance"] for row in found] == [row[7]["distance"] for row in found]
    assert [[one["id"] for one in row] for row in found] == [[f"b{e + 5 * n}" for n in range(8)] for e in equal]
    assert (nearest[:, 0] % 5 == equal).all()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_whose_vectors_cannot_be_compared_fail_alone(tmp_path: Path, context: SetupContext, metric: str) -> None:
    pq.write_table(table_of([[1, 0], [0, 1]]), tmp_path / "base.parquet")
    rows = table_of([[1, 0.1], None, [1, 2, 3], [float("nan"), 0], [0, 0], [0.1, 1], []])
    result = run(context, rows, base=str(tmp_path / "base.parquet"), k=1, metric=metric)
    messages = {place: error.message for place, error in result.errors.items()}
    assert messages.pop(4, None) == (
        "its vector has no direction: all of its numbers are 0." if metric == "cosine" else None
    )
    assert messages == {
        1: "it has no vector.",
        2: "its vector has 3 numbers, expected 2.",
        3: "its vector has a number that is not finite.",
        6: "its vector has 0 numbers, expected 2.",
    }
    found = neighbors(result)
    assert (found[0][0]["id"], found[-1][0]["id"]) == ("b0", "b1")


@pytest.mark.usefixtures("small_tiles")
def test_rows_of_the_base_that_cannot_be_compared_are_never_found(tmp_path: Path, context: SetupContext) -> None:
    base: list[Any] = vectors(200, seed=1).tolist()
    base[3], base[70], base[199] = None, [float("inf")] * 24, [0.0] * 24
    pq.write_table(table_of(base), tmp_path / "base.parquet", row_group_size=50)
    found = neighbors(run(context, table_of(vectors(9, seed=2)), base=str(tmp_path / "base.parquet"), k=1_000))
    left = {f"b{n}" for n in range(200)} - {"b3", "b70", "b199"}
    assert all({one["id"] for one in row} == left for row in found)


def test_lengths_that_have_no_square_in_float32_have_a_direction(tmp_path: Path, context: SetupContext) -> None:
    base = np.array([[1e30, 0], [0, 1e-30], [1, 1]], np.float32)
    pq.write_table(table_of(base), tmp_path / "base.parquet")
    rows = table_of(np.array([[3e-25, 1e-27], [1e22, 2e25]], np.float32))
    found = neighbors(run(context, rows, base=str(tmp_path / "base.parquet"), k=3))
    assert [[one["id"] for one in row] for row in found] == [["b0", "b2", "b1"], ["b1", "b2", "b0"]]


def test_an_empty_base_has_no_neighbors(tmp_path: Path, context: SetupContext) -> None:
    pq.write_table(table_of([]), tmp_path / "base.parquet")
    assert neighbors(run(context, table_of([[1, 2]]), base=str(tmp_path / "base.parquet"))) == [[]]


@pytest.mark.parametrize("metric", METRICS)
def test_only_rows_within_a_distance_are_found(tmp_path: Path, context: SetupContext, metric: str) -> None:
    base, queries = vectors(100, seed=1), vectors(20, seed=2)
    expected = all_distances(queries, base, metric)
    within = float(np.sort(expected, axis=None)[150]) + 1e-3
    pq.write_table(table_of(base), tmp_path / "base.parquet")
    params: dict[str, Any] = {"base": str(tmp_path / "base.parquet"), "k": 100, "metric": metric, "within": within}
    found = neighbors(run(context, table_of(queries), **params))
    near = [set(np.flatnonzero(row <= within).tolist()) for row in expected]
    assert [{int(one["id"][1:]) for one in row} for row in found] == near
    assert 0 < sum(map(len, near)) < 2_000


def test_a_table_is_compared_with_itself_by_a_key(tmp_path: Path, context: SetupContext) -> None:
    base = vectors(50, seed=1)
    pq.write_table(table_of(base), tmp_path / "base.parquet")
    params: dict[str, Any] = {"base": str(tmp_path / "base.parquet"), "key": "id", "k": 3}
    found = neighbors(run(context, table_of(base), **params))
    expected = all_distances(base, base, "cosine")
    np.fill_diagonal(expected, np.inf)
    for n, row in enumerate(found):
        assert f"b{n}" not in {one["id"] for one in row}
        np.testing.assert_allclose([one["distance"] for one in row], np.sort(expected[n])[:3], atol=2e-6)


def test_a_join_has_a_row_for_each_pair(tmp_path: Path, context: SetupContext) -> None:
    pq.write_table(table_of([[1, 0], [0, 1], [1, 1]], text=["a", "b", "c"]), tmp_path / "base.parquet")
    rows = table_of([[2, 0.1], None, [0, 3]])
    params: dict[str, Any] = {"base": str(tmp_path / "base.parquet"), "k": 2, "within": 0.5}
    joined: Expansion = run(context, rows, "knn_join", **params)
    assert list(joined.counts) == [2, 0, 2]
    assert list(joined.errors) == [1]
    assert joined.results[f"{PREFIX}text"].to_pylist() == ["a", "c", "b", "c"]
    assert joined.results.column_names == ["distance", "base_id", "base_text"]
    lists = neighbors(run(context, rows, **params))
    assert [one["distance"] for row in lists for one in row] == joined.results["distance"].to_pylist()


def test_a_base_that_changed_is_read_again_and_a_version_of_it_stays(tmp_path: Path, context: SetupContext) -> None:
    to = str(tmp_path / "base.lance")
    first = lance.write_dataset(table_of([[1, 0]]), to).version
    newest: Any = definition_of("knn").build({"base": to, "k": 1})
    fixed: Any = definition_of("knn").build({"base": to, "k": 1, "version": first})
    with context.active():
        newest.setup("cpu")
        fixed.setup("cpu")
    lance.write_dataset(table_of([[9, 9], [0, 1]]), to, mode="overwrite")
    rows = table_of([[0, 1]])
    assert neighbors(newest.finish(newest.infer(rows)))[0][0]["id"] == "b1"
    assert neighbors(fixed.finish(fixed.infer(rows)))[0][0]["distance"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"base": "{root}/nothing.lance"}, "no Lance table"),
        ({"base": "{root}/nothing"}, "no file or folder"),
        ({"base": "/etc/passwd.parquet"}, "outside the folders"),
        ({"base": "/etc/x.lance"}, "outside the folders"),
        ({"base": "{root}/lines.jsonl"}, "is jsonl"),
        ({"base": "{root}/base.parquet", "base_vector": "colum"}, "no column 'colum'"),
        ({"base": "{root}/base.parquet", "columns": ["no"]}, "no column 'no'"),
        ({"base": "{root}/base.parquet", "base_vector": "id"}, "expected vectors"),
        ({"base": "{root}/base.parquet", "key": "id", "columns": []}, "not among `columns`"),
        ({"base": "{root}/mixed.parquet"}, "several lengths"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(
    tmp_path: Path, context: SetupContext, params: dict[str, Any], words: str
) -> None:
    pq.write_table(table_of([[1, 0]]), tmp_path / "base.parquet")
    pq.write_table(table_of([[1, 0], [1]]), tmp_path / "mixed.parquet")
    (tmp_path / "lines.jsonl").write_text('{"embedding": [1]}\n')
    params = params | {"base": params["base"].replace("{root}", str(tmp_path))}
    with pytest.raises(InvalidParams, match=words):
        run(context, table_of([[1, 0]]), **params)


def test_bounds_of_products_hold_for_vectors_of_very_different_lengths() -> None:
    draw = np.random.default_rng(3)
    rows = (draw.standard_normal((400, 96)) * 10.0 ** draw.uniform(-6, 6, (400, 1))).astype(np.float32)
    for metric in ("dot", "l2", "cosine"):
        every = products.on_device(torch.from_numpy(rows), metric, torch.device("cpu"))
        truth = -all_distances(rows, rows, metric) if metric != "l2" else -(all_distances(rows, rows, metric) ** 2) / 2
        truth = truth + 1 if metric == "cosine" else truth
        floors = torch.from_numpy(np.quantile(truth, 0.9, axis=1).astype(np.float32))
        pairs = products.close_pairs(every, every, floors)
        found = set(zip(pairs.queries.tolist(), pairs.base.tolist(), strict=True))
        slack = np.abs(truth) * 1e-5 + 1e-5 * np.linalg.norm(rows, axis=1) ** 2 * (metric == "l2")
        rows_of, columns = np.nonzero(truth > floors.numpy()[:, None] + slack)
        assert set(zip(rows_of.tolist(), columns.tolist(), strict=True)) <= found
