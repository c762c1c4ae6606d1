"""PostgreSQL with pgvector as a store of vectors: a real server, from its wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from batchmill.errors import InvalidOutput, StaleToken, StorageUnavailable
from batchmill.storage.named_stores import NamedStore
from batchmill_worker.stores.postgres import PostgresStore
from batchmill_worker.stores.rows import conform
from support.postgres_server import PostgresServer
from support.store_contract import CHANGED, FIRST, NEW, OLD, StoreContract, pieces_of, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


class TestPostgres(StoreContract):
    to = "db:pieces"
    refused_places = [1, 2]  # noqa: RUF012  # never changed

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

    def test_a_table_that_no_sink_has_made_is_left_as_it_is(self) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as db:
            db.execute("create table pieces (note text); insert into pieces values ('precious')")
            with pytest.raises(InvalidOutput, match="no sink has made"):
                self.write(FIRST, OLD, self.sink())
            assert db.execute("select note from pieces").fetchall() == [("precious",)]

    def test_a_table_that_appears_while_rows_are_written_is_left_as_it_is(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        with psycopg.connect(self.server.url, autocommit=True) as db:
            db.execute("create table pieces (note text); insert into pieces values ('precious')")
            with pytest.raises(InvalidOutput, match="no sink has made"):
                self.open().publish(build, receipts)
            assert db.execute("select note from pieces").fetchall() == [("precious",)]

    def test_a_table_of_the_same_database_under_another_name_of_it_is_refused(self) -> None:
        self.load(FIRST, OLD)
        with pytest.raises(InvalidOutput, match="two names"):
            self.load(CHANGED, NEW, to="other:pieces")
        assert self.found() == pieces_of(FIRST)

    def test_a_late_attempt_of_a_job_that_is_published_leaves_nothing(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        self.open().publish(build, receipts)
        with pytest.raises(StaleToken):
            self.open().write(build, "0-a9", conform(self.rows(FIRST[:1], OLD, self.sink()), build.schema, "embedding"))
        with psycopg.connect(self.server.url) as db:
            assert db.execute("select count(*) from pg_tables where tablename like 'pieces%'").fetchone() == (1,)

    def test_nothing_of_the_job_stays_beside_the_table(self) -> None:
        self.load(FIRST, OLD)
        self.load(CHANGED, "job-01zzz", mode="upsert")
        with psycopg.connect(self.server.url) as db:
            tables = {name for (name,) in db.execute("select tablename from pg_tables where schemaname = 'public'")}
        assert tables == {"pieces", "batchmill_indexes"}
