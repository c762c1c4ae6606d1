"""Chroma as a store of vectors: a real server, from its wheel."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidOutput, InvalidParams, InvalidRows, StaleToken, StorageUnavailable
from batchmill.storage.named_stores import NamedStore
from batchmill_worker.stores.base import Build
from batchmill_worker.stores.chroma import ChromaServer as Collections
from batchmill_worker.stores.chroma import ChromaStore
from batchmill_worker.stores.collection_store import Points
from batchmill_worker.stores.rows import conform
from support.chroma_server import ChromaServer
from support.store_contract import CHANGED, FIRST, NEW, NEWER, OLD, StoreContract, pieces_of, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[ChromaServer]:
    running = ChromaServer()
    yield running
    running.close()


class TestChroma(StoreContract):
    to = "db:pieces"

    @pytest.fixture(autouse=True)
    def _collections(self, server: ChromaServer) -> None:
        self.server = server
        self.store = NamedStore(url=server.url)
        self.collections = Collections(self.store)
        self.clear()

    def clear(self) -> None:
        for name in self.names():
            self.ask("DELETE", f"/{name}")

    def names(self) -> set[str]:
        return {one["name"] for one in self.ask("GET")}

    def ask(self, method: str, path: str = "", body: Any = None) -> Any:
        return self.collections._http.ask(method, f"{self.collections._folder}{path}", body)

    def open(self) -> ChromaStore:
        return ChromaStore(self.store, "pieces")

    def test_a_server_that_is_away_is_said_to_be_away(self) -> None:
        self.server.stop()
        try:
            with pytest.raises(StorageUnavailable, match="cannot be reached"):
                self.open().search(self.sink(), vector_of("x"), 1, {}, None)
        finally:
            self.server.start()

    def test_a_collection_that_no_sink_has_made_is_left_as_it_is(self) -> None:
        self.ask("POST", body={"name": "pieces", "metadata": {"note": "precious"}})
        precious = self.collections.find("pieces")
        assert precious is not None
        self.collections.put(precious, Points(["1"], np.ones((1, 3), np.float32), [{"a": 1}]), 1)
        with pytest.raises(InvalidOutput, match="no sink has made"):
            self.write(FIRST, OLD, self.sink())
        found = self.collections.find("pieces")
        assert found is not None
        assert (found.metadata, self.collections.count(found)) == ({"note": "precious"}, 1)

    def test_a_collection_of_the_same_server_under_another_name_of_it_is_refused(self) -> None:
        self.load(FIRST, OLD)
        with pytest.raises(InvalidOutput, match="two names"):
            self.load(CHANGED, NEW, to="other:pieces")
        assert self.found() == pieces_of(FIRST)

    def test_a_late_attempt_of_a_job_that_is_published_leaves_nothing(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        self.open().publish(build, receipts)
        with pytest.raises(StaleToken):
            self.open().write(build, "0-a9", conform(self.rows(FIRST[:1], OLD, self.sink()), build.schema, "embedding"))
        assert self.names() == {"pieces"}

    @pytest.mark.parametrize("mode", ["replace", "upsert"])
    def test_nothing_of_the_job_stays_beside_the_collection(self, mode: str) -> None:
        self.load(FIRST, OLD)
        self.load(CHANGED, NEW, mode=mode)
        assert self.names() == {"pieces"}

    def test_a_publisher_that_was_cut_short_between_two_renames_is_continued(self) -> None:
        self.load(FIRST, OLD)
        build, receipts = self.write(CHANGED, NEW, self.sink())
        visible = self.collections.find("pieces")
        assert visible is not None
        self.collections._change(visible, "pieces__01bbb__former", None)
        self.open().publish(build, receipts)
        assert self.found() == pieces_of(CHANGED)
        assert self.names() == {"pieces"}

    @pytest.mark.parametrize("mode", ["replace", "upsert"])
    def test_of_publishers_of_two_jobs_that_interleave_the_newer_one_counts(self, mode: str) -> None:
        """Wherever the older one is interrupted while the newer one is published."""
        for step in range(60):
            self.clear()
            self.load(FIRST, OLD, mode="upsert")
            build, receipts = self.write(FIRST, NEW, self.sink(mode=mode))
            newer = self.write(CHANGED, NEWER, self.sink(mode=mode))
            late, requests, published = self.open(), list[str](), list[Any]()
            server: Any = late._server
            ask = server._http.ask

            def interrupted(*request: Any) -> Any:
                if len(requests) == step and not request[1].endswith("/upsert"):  # noqa: B023  # called in this turn only
                    published.append(self.open().publish(*newer))  # noqa: B023  # as above
                requests.append(request[1])  # noqa: B023  # as above
                return ask(*request)  # noqa: B023  # as above

            server._http.ask = interrupted
            with suppress(StaleToken):
                try:
                    late.publish(build, receipts)
                except StorageUnavailable:  # Chroma's answer if a name is taken; the attempt is repeated
                    self.open().publish(build, receipts)
            if not published:
                self.open().publish(*newer)
            expected = CHANGED if mode == "replace" else [*CHANGED, *FIRST[20:]]
            assert self.found() == pieces_of(expected), requests[step:]
            assert self.names() == {"pieces"}
            if len(requests) <= step:
                return
        pytest.fail("publishing has more requests than are looked at")

    def test_documents_that_are_twice_in_different_parts_are_noticed(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        twin = self.rows(FIRST[:1], OLD, self.sink())
        again = self.open().write(build, "7-a1", conform(twin, build.schema, "embedding"))
        with pytest.raises(InvalidRows, match="two rows have one value in the column 'doc'"):
            self.open().publish(build, [*receipts, again])

    def test_values_of_all_kinds_come_back_and_nulls_are_left_out(self) -> None:
        sink = self.sink(id=None)
        rows = pa.table(
            {
                "_id": ["a", "b"],
                "_root": ["a", "b"],
                "_generation": [OLD, OLD],
                "embedding": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2)),
                "count": pa.array([2**53 + 1, None], pa.int64()),
                "share": [float("nan"), 0.5],
                "flag": [True, None],
                "text": ["zero\0byte 数据", ""],
                "tags": [["x", "y"], None],
            }
        )
        build = Build(OLD, sink, rows.schema)
        self.open().publish(build, [self.open().write(build, "0-a1", rows)])
        one, other = self.open().search(sink, np.array([1, 0], np.float32), 2, {}, None).to_pylist()
        shown = ("count", "share", "flag", "text", "tags")
        assert [one[name] for name in shown] == [2**53 + 1, None, True, "zero\0byte 数据", '["x", "y"]']
        assert [other[name] for name in shown] == [None, 0.5, None, "", None]
        with pytest.raises(InvalidParams, match="do not have"):
            self.open().search(sink, np.array([1, 0], np.float32), 2, {"flag": None}, None)

    @pytest.mark.parametrize("name", ["ab", "_abc", "abc_"])
    def test_a_name_that_chroma_does_not_take_is_refused(self, name: str) -> None:
        store = ChromaStore(self.store, name)
        build, _ = self.write(FIRST[:2], OLD, self.sink())
        with pytest.raises(InvalidOutput, match="no name of a Chroma collection"):
            store.write(build, "0-a1", self.rows(FIRST[:2], OLD, self.sink()))
