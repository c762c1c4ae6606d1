"""100,000 vectors into each store that runs here, beside the store's own best bulk path, in the same run.

Vectors are points around random centres, so that neighbours exist; queries are other points of the same kind. Recall is
of the built index against comparing all.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Protocol

import lance
import numpy as np
import psycopg
import pyarrow as pa
from pgvector.psycopg import register_vector
from tests.support.postgres_server import PostgresServer

from batchmill.columns.lineage import SOURCE_ROW
from batchmill.jobs.sink import SHARD_ROWS, IndexSpec, SinkSpec
from batchmill.storage.named_stores import NamedStore
from batchmill_worker.stores.base import Build
from batchmill_worker.stores.lance import LanceStore
from batchmill_worker.stores.postgres import PostgresStore
from batchmill_worker.stores.rows import conform, stored_rows
from benchmarks.figures import Bar, Figure, Report

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchmill_worker.stores.base import Store
    from benchmarks.scale import Scale

    Vectors = npt.NDArray[np.float32]

NAME = "vectors"
DIMENSION, K, QUERIES, CENTRES = 384, 10, 100, 2_000
SPREAD = 0.35
JOB = "job-01bench"


def measure(scale: Scale) -> Report:
    """Each store in turn, `scale.runs` times over."""
    rows = scale.rows // 10
    base, queries = points(rows, 0), points(QUERIES, 1)
    table = pa.table({"text": [f"text {n}" for n in range(rows)], "embedding": column_of(base)})
    truth = np.argsort(-(queries @ base.T), axis=1)[:, :K]
    figures: list[Figure] = []
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer()
        try:
            for side in (_Lance(folder), _Postgres(server.url)):
                _measure(side, table, queries, truth, scale.runs, figures, bars)
        finally:
            server.close()
    settings = {"rows": rows, "dimension": DIMENSION, "queries": QUERIES, "runs": scale.runs}
    into = "Into the store: ids, checks, writing in shards of 10,000 rows and publishing, without the job around it."
    alone = "Its own bulk path: `lance.write_dataset`; `COPY` in binary form, row by row, then a primary key."
    return Report(NAME, settings, figures, bars, [into, alone])


def _measure(
    side: _Side,
    table: pa.Table,
    queries: Vectors,
    truth: npt.NDArray[np.int64],
    runs: int,
    figures: list[Figure],
    bars: list[Bar],
) -> None:
    loads, peers, name = list[float](), list[float](), side.name
    for run in range(runs):
        began = time.perf_counter()
        side.alone(table, run)
        between = time.perf_counter()
        _load(side.open(run), SinkSpec(to=side.to, index="none"), table)
        loads.append(table.num_rows / (time.perf_counter() - between))
        peers.append(table.num_rows / (between - began))
    recall, query_ms, build_s = _searched(
        side.open(runs), SinkSpec(to=side.to, index=IndexSpec()), table, queries, truth
    )
    figures += [
        Figure(f"{name}: into the store", "rows/s", loads),
        Figure(f"{name}: its own bulk path", "rows/s", peers),
        Figure(f"{name}: load and index", "s", [build_s]),
        Figure(f"{name}: a query, median", "ms", [query_ms]),
    ]
    ratio = statistics.median(ours / theirs for ours, theirs in zip(loads, peers, strict=True))
    bars += [
        Bar(f"{name}: into the store over its own bulk path", ratio, "at least", 0.9, "x"),
        Bar(f"{name}: recall@{K} of the index", recall, "at least", 0.95, ""),
    ]


class _Side(Protocol):
    """A store, and its own way of loading many rows. run: a number that no other run has."""

    name: str
    to: str

    def open(self, run: int) -> Store: ...

    def alone(self, table: pa.Table, run: int) -> None: ...


class _Lance:
    name, to = "Lance", "/x.lance"

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def open(self, run: int) -> LanceStore:
        return LanceStore(f"{self._folder}/{run}.lance")

    def alone(self, table: pa.Table, run: int) -> None:
        lance.write_dataset(table, f"{self._folder}/{run}-alone.lance")


class _Postgres:
    name, to = "PostgreSQL", "db:x"

    def __init__(self, url: str) -> None:
        self._url = url

    def open(self, run: int) -> PostgresStore:
        return PostgresStore(NamedStore(url=self._url), f"table_{run}")

    def alone(self, table: pa.Table, run: int) -> None:
        name = f"alone_{run}"
        with psycopg.connect(self._url, autocommit=True) as db:
            db.execute("create extension if not exists vector")
            register_vector(db)
            db.execute(f"create table {name} (id int8, text text, embedding vector({DIMENSION}))")
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIMENSION)
            with db.cursor().copy(f"copy {name} from stdin with (format binary)") as copy:
                copy.set_types(["int8", "text", "vector"])
                for row in zip(range(table.num_rows), table["text"].to_pylist(), vectors, strict=True):
                    copy.write_row(row)
            db.execute(f"alter table {name} add primary key (id)")


def _load(store: Store, sink: SinkSpec, table: pa.Table) -> None:
    receipts, build = [], None
    for start in range(0, table.num_rows, SHARD_ROWS):
        some = table.slice(start, SHARD_ROWS)
        lineage = pa.table({SOURCE_ROW: np.arange(start, start + some.num_rows)})
        rows, _ = stored_rows(some, lineage, sink, JOB)
        build = build or Build(JOB, sink, rows.schema)
        receipts.append(store.write(build, f"{start}-a1", conform(rows, build.schema, sink.vector)))
    if build is None or store.publish(build, receipts).rows != table.num_rows:
        raise RuntimeError(f"{sink.to} does not have all rows")


def _searched(
    store: Store, sink: SinkSpec, table: pa.Table, queries: Vectors, truth: npt.NDArray[np.int64]
) -> tuple[float, float, float]:
    """Return the recall, the median time of a query in ms, and how long loading and indexing took in s."""
    began = time.perf_counter()
    _load(store, sink, table)
    build_s = time.perf_counter() - began
    found, took = 0, list[float]()
    for query, nearest in zip(queries, truth, strict=True):
        began = time.perf_counter()
        texts = store.search(sink, query, K, {}, ["text"])["text"].to_pylist()
        took.append((time.perf_counter() - began) * 1000)
        found += len(set(texts) & {f"text {n}" for n in nearest})
    return found / truth.size, statistics.median(took), build_s


def points(count: int, seed: int) -> Vectors:
    centres = np.random.default_rng(2).standard_normal((CENTRES, DIMENSION))
    chance = np.random.default_rng(seed)
    points = centres[chance.integers(0, CENTRES, count)] + SPREAD * chance.standard_normal((count, DIMENSION))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def column_of(vectors: Vectors) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
