"""Files of usearch as a store of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from usearch.index import Index

from batchmill.errors import InvalidOutput, InvalidRows, StaleToken
from batchmill.jobs.sink import IndexSpec
from batchmill_worker.stores.usearch import UsearchStore
from support.store_contract import CHANGED, FIRST, NEW, NEWER, OLD, Document, StoreContract, pieces_of, vector_of


class TestUsearch(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.to = str(tmp_path / "table.usearch")

    def open(self) -> UsearchStore:
        return UsearchStore(self.to)

    def files(self) -> set[str]:
        return {str(one.relative_to(self.to)) for one in Path(self.to).rglob("*") if one.is_file()}

    def test_the_files_can_be_used_without_the_service(self) -> None:
        self.load(FIRST, OLD, index=IndexSpec())
        assert self.files() == {f"v00000001/{name}" for name in ("rows.arrow", "index.usearch", "about.json")}
        rows = pa.ipc.open_file(Path(self.to) / "v00000001/rows.arrow").read_all()
        wanted = FIRST[7].pieces[2]
        index = Index.restore(f"{self.to}/v00000001/index.usearch")
        assert index is not None
        keys = index.search(vector_of(wanted), 1).keys
        assert rows["text"][int(keys[0])].as_py() == wanted

    def test_a_file_or_a_folder_that_no_sink_has_made_is_left_as_it_is(self) -> None:
        Path(self.to).write_text("precious")
        with pytest.raises(InvalidOutput, match="there is a file"):
            self.write(FIRST, OLD, self.sink())
        Path(self.to).unlink()
        (Path(self.to) / "mine").mkdir(parents=True)
        with pytest.raises(InvalidOutput, match="no sink has made"):
            self.write(FIRST, OLD, self.sink())

    def test_the_version_before_stays_and_older_ones_go_with_what_jobs_left(self) -> None:
        self.write(FIRST, "job-00aaa", self.sink())  # never published
        for job in (OLD, NEW, NEWER):
            self.load(FIRST, job)
        assert {name.partition("/")[0] for name in self.files()} == {"v00000002", "v00000003"}

    def test_a_publisher_that_is_superseded_while_it_builds_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.load(FIRST, OLD)
        build, receipts = self.write(FIRST, NEW, self.sink(mode="upsert"))
        late = self.open()
        staged = late._staged

        def superseded(*args: object) -> pa.Table:
            rows = staged(*args)  # type: ignore[arg-type]
            monkeypatch.undo()
            self.load(CHANGED, NEWER)
            return rows

        monkeypatch.setattr(late, "_staged", superseded)
        with pytest.raises(StaleToken, match="has published"):
            late.publish(build, receipts)
        assert self.found() == pieces_of(CHANGED)

    def test_documents_that_are_twice_in_different_parts_are_noticed(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        again = self.open().write(build, "7-a1", self.rows(FIRST[:1], OLD, self.sink()))
        with pytest.raises(InvalidRows, match="the value 'd0' in the column 'doc'"):
            self.open().publish(build, [*receipts, again])

    def test_what_the_index_finds_is_ordered_by_exact_distances(self) -> None:
        many = [Document(f"d{n}", (f"text {n}",)) for n in range(2_000)]
        self.load(many, OLD, index=IndexSpec())
        found = self.open().search(self.sink(), vector_of("any"), 10, {}, ["text", "embedding"]).to_pylist()
        query = vector_of("any")
        for row in found:
            vector = np.array(row["embedding"])
            cosine = vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)
            assert row["_distance"] == pytest.approx(1 - cosine, abs=1e-6)
        assert [row["_distance"] for row in found] == sorted(row["_distance"] for row in found)

    def test_filters_by_null_and_by_times(self) -> None:
        sink = self.sink(id=None)
        rows = self.rows(FIRST[:3], OLD, sink).append_column("when", pa.array([None] * 6, pa.timestamp("us")))
        times = pa.array([None, "2026-01-01", "2026-02-01", None, None, None]).cast(pa.timestamp("us"))
        rows = rows.set_column(rows.num_columns - 1, "when", times)
        from batchmill_worker.stores.base import Build

        build = Build(OLD, sink, rows.schema)
        self.open().publish(build, [self.open().write(build, "0-a1", rows)])
        cases: list[tuple[dict[str, Any], int]] = [
            ({"when": None}, 4),
            ({"when": {"ne": None}}, 2),
            ({"when": {"gt": "2026-01-15"}}, 1),
        ]
        for where, count in cases:
            assert self.open().search(sink, vector_of("x"), 10, where, ["text"]).num_rows == count
