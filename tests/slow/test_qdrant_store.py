"""Qdrant as a store of vectors: its real engine, behind a stand-in for its HTTP interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidOutput, InvalidParams, InvalidRows, StaleToken, StorageUnavailable
from batchmill.storage.named_stores import NamedStore
from batchmill_worker.stores.base import Build
from batchmill_worker.stores.qdrant import QdrantStore
from batchmill_worker.stores.rows import conform, row_ids
from support.qdrant_server import QdrantServer
from support.store_contract import CHANGED, DIMENSION, FIRST, NEW, NEWER, OLD, StoreContract, pieces_of, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantServer]:
    running = QdrantServer()
    yield running
    running.close()


class TestQdrant(StoreContract):
    to = "db:pieces"

    @pytest.fixture(autouse=True)
    def _collections(self, server: QdrantServer) -> None:
        self.server = server
        self.store = NamedStore(url=server.url)
        server.clear()

    def open(self) -> QdrantStore:
        return QdrantStore(self.store, "pieces")

    def test_a_server_that_is_away_is_said_to_be_away(self) -> None:
        self.server.stop()
        try:
            with pytest.raises(StorageUnavailable, match="cannot be reached"):
                self.open().search(self.sink(), vector_of("x"), 1, {}, None)
        finally:
            self.server.start()

    def test_a_wrong_key_is_refused_and_the_right_one_is_not(self, tmp_path: Path) -> None:
        self.server.api_key = "right"
        secret = tmp_path / "key"
        try:
            secret.write_text("wrong\n")
            self.store = NamedStore(url=self.server.url, password_file=secret)
            with pytest.raises(Exception, match="Must provide an API key"):
                self.load(FIRST, OLD)
            secret.write_text("right\n")
            self.load(FIRST, OLD)
        finally:
            self.server.api_key = None

    def test_a_collection_that_no_sink_has_made_is_left_as_it_is(self) -> None:
        vectors = {"size": DIMENSION, "distance": "Dot"}
        hnsw = {"m": 16, "ef_construct": 100}
        self.server.make("pieces", {"vectors": vectors, "hnsw_config": hnsw, "optimizers_config": {}})
        with pytest.raises(InvalidOutput, match="no sink has made"):
            self.write(FIRST, OLD, self.sink())
        assert list(self.server.collections) == ["pieces"]

    def test_a_collection_of_the_same_server_under_another_name_of_it_is_refused(self) -> None:
        self.load(FIRST, OLD)
        with pytest.raises(InvalidOutput, match="two names"):
            self.load(CHANGED, NEW, to="other:pieces")
        assert self.found() == pieces_of(FIRST)

    def test_a_late_attempt_of_a_job_that_is_published_changes_nothing(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        self.open().publish(build, receipts)
        with pytest.raises(StaleToken):
            self.open().write(build, "0-a9", conform(self.rows(FIRST[:1], OLD, self.sink()), build.schema, "embedding"))
        assert list(self.server.collections) == ["pieces__01aaa"]

    @pytest.mark.parametrize("mode", ["replace", "upsert"])
    def test_nothing_of_former_jobs_stays_beside_the_collection(self, mode: str) -> None:
        self.write(FIRST, "job-00aaa", self.sink())  # never published
        self.load(FIRST, OLD)
        self.load(CHANGED, NEW, mode=mode)
        assert list(self.server.collections) == ["pieces__01bbb" if mode == "replace" else "pieces__01aaa"]
        assert self.server.aliases.keys() == {"pieces"}

    def test_a_table_whose_name_begins_as_another_ones_stays(self) -> None:
        other = QdrantStore(self.store, "pieces__more")
        build, receipts = self.write(FIRST, OLD, self.sink())
        rows = self.rows(FIRST, OLD, self.sink())
        beside = Build(OLD, self.sink(to="db:pieces__more"), build.schema)
        other.publish(beside, [other.write(beside, "0-a1", conform(rows, build.schema, "embedding"))])
        self.open().publish(build, receipts)
        self.load(CHANGED, NEW)
        assert other.search(self.sink(), vector_of("x"), 1_000, {}, ["doc"]).num_rows == len(pieces_of(FIRST))

    def test_a_publisher_that_is_superseded_between_two_requests_leaves_the_newer_rows(self) -> None:
        """The engine refuses the points of an older job where there are those of a newer one."""
        self.load(FIRST, OLD, mode="upsert")
        build, receipts = self.write(FIRST, NEW, self.sink(mode="upsert"))
        late = self.open()
        pages = late._server.pages

        def interrupted(one: Any) -> Any:
            for page in pages(one):
                yield page
                self.load(CHANGED, NEWER, mode="upsert")

        late._server.pages = interrupted  # type: ignore[method-assign]
        current, calls = late._current, list[Any]()

        def noted(*args: Any) -> Any:
            calls.append(args)
            return current(*args)

        late._current = noted  # type: ignore[assignment,method-assign]
        with pytest.raises(StaleToken):
            late.publish(build, receipts)
        assert self.found() == pieces_of([*CHANGED, *FIRST[20:]])

    def test_points_of_an_older_job_do_not_replace_those_of_a_newer_one(self) -> None:
        self.load(FIRST, NEWER, mode="upsert")
        store = self.open()
        (visible,) = [store._server.find("pieces")]
        assert visible is not None
        page = next(iter(store._server.pages(visible)))
        older = [payload | {"text": "older", "_time": 1} for payload in page.payloads]
        store._server.put(visible, type(page)(page.ids, page.vectors, older), 1)
        assert self.found() == pieces_of(FIRST)

    def test_rows_that_are_too_many_bytes_for_a_request_are_sent_in_halves(self) -> None:
        self.server.max_body_bytes = 4_000
        try:
            self.load(FIRST, OLD)
        finally:
            self.server.max_body_bytes = 32 * 2**20
        assert self.found() == pieces_of(FIRST)

    def test_documents_that_are_twice_in_different_parts_are_noticed(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        twin = self.rows(FIRST[:1], OLD, self.sink())
        again = self.open().write(build, "7-a1", conform(twin, build.schema, "embedding"))
        with pytest.raises(InvalidRows, match="two rows have one value in the column 'doc'"):
            self.open().publish(build, [*receipts, again])

    @pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
    def test_vectors_keep_their_length_also_through_an_upsert(self, metric: str) -> None:
        self.load(FIRST, OLD, mode="upsert", metric=metric)
        self.load(CHANGED, NEW, mode="upsert", metric=metric)
        wanted = CHANGED[3].pieces[-1]
        sink = self.sink(metric=metric)
        found = self.open().search(sink, vector_of(wanted), 1_000, {"text": wanted}, ["text", "embedding"])
        assert found["embedding"][0].as_py() == pytest.approx(vector_of(wanted).tolist(), rel=1e-5)

    def test_values_of_all_kinds_come_back_and_filters_find_them(self) -> None:
        sink = self.sink(id=None)
        ids = row_ids(["a", "b"], [(), ()])
        rows = pa.table(
            {
                "_id": ids,
                "_root": ["a", "b"],
                "_generation": [OLD, OLD],
                "embedding": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2)),
                "count": pa.array([2**53 + 1, None], pa.int64()),
                "share": [float("nan"), 0.5],
                "flag": [True, None],
                "text": ["zero\0byte 数据", ""],
                "tags": [["x", "y"], None],
                "a.b": [1, 2],
            }
        )
        build = Build(OLD, sink, rows.schema)
        self.open().publish(build, [self.open().write(build, "0-a1", rows)])
        query = np.array([1, 0], np.float32)
        one, other = self.open().search(sink, query, 2, {}, None).to_pylist()
        shown = ("count", "share", "flag", "text", "tags", "a.b")
        assert [one[name] for name in shown] == [2**53 + 1, None, True, "zero\0byte 数据", '["x", "y"]', 1]
        assert [other[name] for name in shown] == [None, 0.5, None, "", None, 2]
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({"flag": None}, ["b"]),
            ({"flag": {"ne": None}}, ["a"]),
            ({"count": 2**53 + 1}, ["a"]),
            ({"count": {"ne": 5}}, ["a"]),
            ({"share": 0.5}, ["b"]),
            ({"share": {"in": [0.5, 1]}}, ["b"]),
            ({"a.b": {"gt": 1}}, ["b"]),
            ({"text": {"in": ["", "x"]}}, ["b"]),
        ]
        for where, found in cases:
            assert self.open().search(sink, query, 5, where, ["_root"])["_root"].to_pylist() == found, where
        with pytest.raises(InvalidParams, match="only by their size"):
            self.open().search(sink, query, 2, {"text": {"lt": "x"}}, None)
