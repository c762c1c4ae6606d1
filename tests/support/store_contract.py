"""What every store of vectors must do, as tests: a class that the tests of each store inherit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.columns.lineage import SOURCE_PATH, SOURCE_ROW
from batchmill.errors import InvalidParams, InvalidRows, StaleToken
from batchmill.jobs.ids import later_id, new_id
from batchmill.jobs.sink import ID, IndexSpec, SinkSpec, step_of
from batchmill_worker.stores.base import DISTANCE, Build, Receipt
from batchmill_worker.stores.rows import conform, stored_rows

if TYPE_CHECKING:
    from batchmill_worker.stores.base import Published, Store

DIMENSION = 8
OLD, NEW, NEWER = "job-01aaa", "job-01bbb", "job-01ccc"


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a test: each piece is a row."""

    key: str
    pieces: tuple[str, ...]


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A vector that is another one for each text."""
    seed = np.frombuffer(text.encode().ljust(16, b"."), np.uint8)[:16]
    return np.random.default_rng(seed.astype(np.uint64)).standard_normal(DIMENSION).astype(np.float32)


def pieces_of(documents: list[Document]) -> list[tuple[str, str, int]]:
    """The rows of documents, as they must be in the store."""
    return sorted((one.key, text, place) for one in documents for place, text in enumerate(one.pieces))


FIRST = [Document(f"d{n}", tuple(f"text {n} {piece}" for piece in range(1 + n % 4))) for n in range(40)]
CHANGED = [Document(one.key, one.pieces[:1] + tuple(f"new {text}" for text in one.pieces[2:])) for one in FIRST[:20]]


class StoreContract(ABC):
    """The tests. `open` gives a store that is empty at the beginning of a test; `to` is where its sink points."""

    to: str
    refused_places: list[int] = []  # noqa: RUF012  # of rows with a zero byte, and with NaN in a list

    @abstractmethod
    def open(self) -> Store:
        """The store of this test."""

    def sink(self, **options: Any) -> SinkSpec:
        return SinkSpec(**{"to": self.to, "id": "doc", "index": "none", **options})

    def rows(self, documents: list[Document], job: str, sink: SinkSpec) -> pa.Table:
        found = [
            (number, place, one.key, text)
            for number, one in enumerate(documents)
            for place, text in enumerate(one.pieces)
        ]
        numbers, places, keys, texts = zip(*found, strict=True)
        table = pa.table(
            {
                "doc": list(keys),
                "text": list(texts),
                "place": list(places),
                "embedding": pa.FixedSizeListArray.from_arrays(
                    np.concatenate([vector_of(text) for text in texts]), DIMENSION
                ),
            }
        )
        lineage = pa.table({SOURCE_ROW: list(numbers), SOURCE_PATH: [[place] for place in places]})
        stored, errors = stored_rows(table, lineage, sink, job)
        assert not errors
        return stored

    def write(self, documents: list[Document], job: str, sink: SinkSpec, parts: int = 2) -> tuple[Build, list[Receipt]]:
        """Write documents as several attempts do."""
        store, rows = self.open(), self.rows(documents, job, sink)
        visible = None if sink.mode == "replace" else store.schema()
        build = Build(job, sink, visible or rows.schema)
        size = -(-rows.num_rows // parts)
        slices = [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
        return build, [
            store.write(build, f"{number}-a1", conform(one, build.schema, sink.vector))
            for number, one in enumerate(slices)
        ]

    def load(self, documents: list[Document], job: str, **options: Any) -> Published:
        build, receipts = self.write(documents, job, self.sink(**options))
        return self.open().publish(build, receipts)

    def found(self) -> list[tuple[str, str, int]]:
        """All rows that a search sees."""
        table = self.open().search(self.sink(), vector_of("any"), 10_000, {}, ["doc", "text", "place"])
        return sorted((row["doc"], row["text"], row["place"]) for row in table.to_pylist())

    def test_rows_are_seen_when_they_are_published_and_not_before(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        assert self.open().schema() is None
        published = self.open().publish(build, receipts)
        assert self.found() == pieces_of(FIRST)
        assert published.rows == len(pieces_of(FIRST))

    def test_publishing_again_changes_nothing(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        first, second = self.open().publish(build, receipts), self.open().publish(build, receipts)
        assert first.rows == second.rows
        assert self.found() == pieces_of(FIRST)

    @pytest.mark.parametrize("mode", ["replace", "upsert", "mirror"])
    def test_the_same_rows_of_a_second_job_are_there_once(self, mode: str) -> None:
        self.load(FIRST, OLD, mode=mode)
        self.load(FIRST, NEW, mode=mode)
        assert self.found() == pieces_of(FIRST)

    def test_rows_of_an_attempt_that_does_not_count_are_never_seen(self) -> None:
        sink = self.sink()
        build, receipts = self.write(FIRST, OLD, sink)
        twice = self.open().write(build, "0-a2", conform(self.rows(FIRST[:5], OLD, sink), build.schema, "embedding"))
        assert twice.part != receipts[0].part
        self.open().publish(build, receipts)
        assert self.found() == pieces_of(FIRST)

    def test_replace_leaves_nothing_of_what_was_there(self) -> None:
        self.load(FIRST, OLD)
        self.load(CHANGED, NEW)
        assert self.found() == pieces_of(CHANGED)

    def test_upsert_replaces_whole_documents_and_leaves_others(self) -> None:
        self.load(FIRST, OLD, mode="upsert")
        self.load(CHANGED, NEW, mode="upsert")
        assert self.found() == pieces_of([*CHANGED, *FIRST[20:]])

    def test_mirror_deletes_documents_that_are_gone(self) -> None:
        self.load(FIRST, OLD, mode="mirror")
        self.load(CHANGED, NEW, mode="mirror")
        assert self.found() == pieces_of(CHANGED)

    def test_rows_of_a_replay_are_added_to_their_documents(self) -> None:
        some = [Document(one.key, one.pieces) for one in FIRST]
        sink = self.sink(mode="upsert")
        build, _ = self.write(some[:1], OLD, sink)
        rows = self.rows(some, OLD, sink)
        first, rest = rows.slice(0, 30), rows.slice(30)
        self.open().publish(build, [self.open().write(build, "9-a1", first)])
        again = self.sink(mode="amend")
        amended = Build(NEW, again, build.schema)
        self.open().publish(amended, [self.open().write(amended, "0-a1", rest)])
        assert self.found() == pieces_of(FIRST)

    def test_a_job_that_is_older_than_what_is_published_is_refused(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        self.load(CHANGED, NEWER)
        with pytest.raises(StaleToken):
            self.open().publish(build, receipts)
        assert self.found() == pieces_of(CHANGED)

    def test_two_publishers_at_the_same_time_publish_once(self) -> None:
        self.load(FIRST, OLD, mode="upsert")
        build, receipts = self.write(CHANGED, NEW, self.sink(mode="upsert"))
        results: list[Any] = []

        def publish() -> None:
            with suppress(StaleToken):  # another one has published meanwhile
                results.append(self.open().publish(build, receipts))

        threads = [Thread(target=publish) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({one.rows for one in results}) == 1
        assert self.found() == pieces_of([*CHANGED, *FIRST[20:]])

    def test_steps_of_a_stream_are_published_in_turn_while_later_ones_are_written(self) -> None:
        job, sink = new_id("job"), self.sink(mode="upsert")
        self.load(FIRST, step_of(job, 0), mode="upsert")
        second = self.write(CHANGED, step_of(job, 1), sink)
        third = self.write([Document("d1", ("third",))], step_of(job, 2), sink, parts=1)
        for build, receipts in (second, third, third):
            self.open().publish(build, receipts)
        after = pieces_of([CHANGED[0], Document("d1", ("third",)), *CHANGED[2:], *FIRST[20:]])
        assert self.found() == after
        with suppress(StaleToken):  # or it finds that it is published
            self.open().publish(*second)
        assert self.found() == after
        self.load(FIRST, later_id(job, 1000), mode="upsert")
        assert self.found() == pieces_of(FIRST), "a later job is newer than all steps"

    def test_a_document_that_is_there_twice_is_named(self) -> None:
        with pytest.raises(InvalidRows, match="'twin'"):
            self.load([*FIRST, Document("twin", ("a",)), Document("twin", ("b",))], OLD)

    def test_the_nearest_rows_come_first_and_filters_hold(self) -> None:
        self.load(FIRST, OLD)
        wanted = FIRST[7].pieces[2]
        table = self.open().search(self.sink(), vector_of(wanted), 3, {}, None)
        assert table["text"][0].as_py() == wanted
        assert table[DISTANCE][0].as_py() == pytest.approx(0, abs=1e-5)
        assert ID in table.column_names
        assert "embedding" not in table.column_names
        where = {"doc": {"in": ["d6", "d7"]}, "place": {"gte": 1}}
        found = self.open().search(self.sink(), vector_of(wanted), 100, where, ["doc", "place"]).to_pylist()
        assert {(row["doc"], row["place"]) for row in found} == {("d6", 1), ("d6", 2), ("d7", 1), ("d7", 2), ("d7", 3)}
        assert self.open().search(self.sink(), vector_of(wanted), 5, {"doc": "it's"}, ["doc"]).num_rows == 0

    @pytest.mark.parametrize("where", [{"nothing": 1}, {"doc": {"like": "x"}}, {"doc": {"in": "x"}}])
    def test_a_filter_that_cannot_hold_is_refused(self, where: dict[str, Any]) -> None:
        self.load(FIRST, OLD)
        with pytest.raises(InvalidParams):
            self.open().search(self.sink(), vector_of("x"), 3, where, None)

    @pytest.mark.parametrize(
        "where", [{"place": "x"}, {"doc": {"in": ["d1", 5]}}, {"doc": 5}, {"place": True}, {"place": {"in": [True]}}]
    )
    def test_a_filter_whose_value_is_not_of_the_type_of_its_column_is_refused(self, where: dict[str, Any]) -> None:
        self.load(FIRST, OLD)
        with pytest.raises(InvalidParams, match="refuses the search"):
            self.open().search(self.sink(), vector_of("x"), 3, where, None)

    def test_vectors_are_returned_where_they_are_asked_for(self) -> None:
        self.load(FIRST, OLD)
        wanted = FIRST[0].pieces[0]
        (row,) = self.open().search(self.sink(), vector_of(wanted), 1, {}, ["text", "embedding"]).to_pylist()
        assert row["embedding"] == pytest.approx(vector_of(wanted).tolist())

    def test_rows_that_the_store_refuses_are_named_and_the_others_are_stored(self) -> None:
        rows = pa.table({"doc": ["a", "b\0", "c"], "more": [[1.0], [2.0], [float("nan")]]})
        errors = self.open().refused(rows)
        assert list(errors) == self.refused_places
        assert all("zero byte" in error.message for error in errors.values())

    def test_an_index_finds_what_comparing_all_rows_finds(self) -> None:
        many = [Document(f"d{n}", (f"text {n}",)) for n in range(1_000)]
        published = self.load(many, OLD, index=IndexSpec())
        assert published.index == "hnsw"
        found = [
            self.open().search(self.sink(), vector_of(one.pieces[0]), 1, {}, ["text"])["text"][0].as_py()
            for one in many[:50]
        ]
        assert sum(text == one.pieces[0] for text, one in zip(found, many, strict=False)) >= 48
        more = self.load([Document("d1", ("other",))], NEW, mode="upsert", index=IndexSpec())
        assert more.index == "hnsw"
        assert self.open().search(self.sink(), vector_of("other"), 1, {}, ["text"])["text"][0].as_py() == "other"
