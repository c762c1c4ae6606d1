"""PostgreSQL with pgvector as a store of vectors: a real server, from its wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from batchmill.errors import StorageUnavailable
from batchmill.storage.named_stores import NamedStore
from batchmill_worker.stores.postgres import PostgresStore
from support.postgres_server import PostgresServer
from support.store_contract import CHANGED, FIRST, OLD, StoreContract, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


class TestPostgres(StoreContract):
    to = "db:pieces"

    @pytest.fixture(autouse=True)
    def _database(self, server: PostgresServer) -> None:
        self.server = server
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute("drop schema public cascade; create schema public")

    def open(self) -> PostgresStore:
        return PostgresStore(NamedStore(url=self.server.url), "pieces")

    def test_a_server_that_is_away_is_said_to_be_away(self) -> None:
        self.server.stop()
        try:
            with pytest.raises(StorageUnavailable, match="pieces"):
                self.open().search(self.sink(), vector_of("x"), 1, {}, None)
        finally:
            self.server.start()

    def test_nothing_of_the_job_stays_beside_the_table(self) -> None:
        self.load(FIRST, OLD)
        self.load(CHANGED, "job-01zzz", mode="upsert")
        with psycopg.connect(self.server.url) as db:
            tables = {name for (name,) in db.execute("select tablename from pg_tables where schemaname = 'public'")}
        assert tables == {"pieces", "batchmill_indexes"}
