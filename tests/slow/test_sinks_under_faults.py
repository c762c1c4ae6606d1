"""Workers that write to stores are killed and frozen, and stores are away: the rows are those of the job, once."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import psutil
import psycopg
import psycopg.sql
import pyarrow as pa
import pytest
from usearch.index import Index

from batchmill.storage.named_stores import NamedStore
from batchmill_worker.stores.chroma import ChromaServer as ChromaCollections
from support.chroma_server import ChromaServer
from support.postgres_server import PostgresServer
from support.qdrant_server import QdrantServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.cluster import Cluster

ROWS = 60_000
AWAY_S = 10.0
FAULT_EVERY_S = 1.5
MAX_FAULTS = 4
FROZEN_S = 4.0  # longer than a lease
ENDS_S = 240.0


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"doc": f"d{n}", "n": n, "embedding": [float(n % 97), float(n % 89), 1.0]} for n in range(count)]


class Faults:
    """Kills or freezes a device process now and then, `MAX_FAULTS` times at most, so that the job can end."""

    def __init__(self, running: Cluster, seed: int) -> None:
        self._running = running
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> Faults:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while self.count < MAX_FAULTS and not self._over.wait(FAULT_EVERY_S):
            slots = self._running.slots()
            if not slots:
                continue
            victim = self._random.choice(slots)
            try:
                if self._random.random() < 0.6:
                    victim.kill()
                else:
                    victim.suspend()
                    self._over.wait(FROZEN_S)
                    victim.resume()
                self.count += 1
            except psutil.NoSuchProcess:
                continue


@pytest.fixture(scope="module")
def chroma() -> Iterator[ChromaServer]:
    running = ChromaServer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def qdrant() -> Iterator[QdrantServer]:
    running = QdrantServer()
    yield running
    running.close()


SERVERS = {"db": "database", "notes": "chroma", "points": "qdrant"}
"""The fixtures of the stores, by the names that the service has for them."""


def start(cluster: Callable[..., Cluster], tmp_path: Path, **urls: str) -> Cluster:
    stores = tmp_path / "stores.toml"
    stores.write_text("".join(f'[{name}]\nurl = "{url}"\n' for name, url in urls.items()))
    return cluster(STORES=stores).start(slots=(1, 1))


def rows_in(to: str, server: Any) -> list[tuple[str, int]]:
    if to.endswith(".lance"):
        table = lance.dataset(to).to_table(columns=["doc", "n"])
        return sorted((row["doc"], row["n"]) for row in table.to_pylist())
    if to.endswith(".usearch"):
        newest = max(Path(to).glob("v*"))
        index = Index.restore(str(newest / "index.usearch"), view=True)
        table = pa.ipc.open_file(newest / "rows.arrow").read_all().select(["doc", "n"])
        assert index is not None
        assert sorted(index.keys) == list(range(table.num_rows))
        return sorted((row["doc"], row["n"]) for row in table.to_pylist())
    name = to.partition(":")[2]
    if to.startswith("points:"):
        return sorted((one["doc"], one["n"]) for one in server.points(name))
    if to.startswith("notes:"):
        collections = ChromaCollections(NamedStore(url=server.url))
        found = collections.find(name)
        assert found is not None
        return sorted((one["doc"], one["n"]) for page in collections.pages(found) for one in page.payloads)
    with psycopg.connect(server.url) as db:
        table = psycopg.sql.Identifier(name)
        return sorted(db.execute(psycopg.sql.SQL("select doc, n from {}").format(table)).fetchall())


EXPECTED = sorted((row["doc"], row["n"]) for row in rows_of(ROWS))


@pytest.mark.parametrize("to", ["faults.lance", "faults.usearch", "db:faults", "notes:faults", "points:faults"])
def test_rows_are_those_of_the_job_whoever_is_killed_or_frozen(
    cluster: Callable[..., Cluster], tmp_path: Path, request: pytest.FixtureRequest, to: str
) -> None:
    store = to.partition(":")[0]
    server = request.getfixturevalue(SERVERS[store]) if store in SERVERS else None
    running = start(cluster, tmp_path, **({} if server is None else {store: server.url}))
    to = str(tmp_path / to) if server is None else to
    sink, client = {"to": to, "id": "doc"}, running.clients["a"]
    client.submit("echo", rows_of(1_000), sink=sink).wait(ENDS_S)
    with Faults(running, seed=7) as faults:
        client.submit("echo", rows_of(ROWS), sink={**sink, "mode": "upsert"}).wait(ENDS_S)
    assert faults.count > 0, "nothing happened to the job"
    assert rows_in(to, server) == EXPECTED


def test_a_job_waits_for_a_database_that_is_away(
    cluster: Callable[..., Cluster], tmp_path: Path, database: PostgresServer
) -> None:
    running = start(cluster, tmp_path, db=database.url)
    client, sink = running.clients["a"], {"to": "db:away", "id": "doc", "mode": "upsert"}
    client.submit("echo", rows_of(100), sink=sink).wait(ENDS_S)
    database.stop()
    try:
        job = client.submit("echo", rows_of(ROWS), sink=sink)
        time.sleep(AWAY_S)
        assert not job.status().is_final
    finally:
        database.start()
    assert job.wait(ENDS_S).status().rows_dead == 0
    assert rows_in("db:away", database) == EXPECTED
