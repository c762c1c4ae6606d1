"""Lance as a store of vectors."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import lance
import pyarrow as pa
import pytest

from batchmill.errors import InvalidOutput, StaleToken
from batchmill.jobs.ids import new_id
from batchmill.jobs.sink import IndexSpec, step_of
from batchmill_worker.stores import lance_upkeep
from batchmill_worker.stores.lance import LanceStore
from support.store_contract import CHANGED, FIRST, NEW, OLD, Document, StoreContract, pieces_of, vector_of

if TYPE_CHECKING:
    from pathlib import Path


class TestLance(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.to = str(tmp_path / "table.lance")

    def open(self) -> LanceStore:
        return LanceStore(self.to)

    def test_a_table_that_no_sink_has_made_is_left_as_it_is(self) -> None:
        lance.write_dataset(pa.table({"note": ["precious"]}), self.to)
        with pytest.raises(InvalidOutput, match="no sink has made"):
            self.write(FIRST, OLD, self.sink())
        assert lance.dataset(self.to).to_table()["note"].to_pylist() == ["precious"]

    def test_a_table_that_appears_while_rows_are_written_is_left_as_it_is(self) -> None:
        build, receipts = self.write(FIRST, OLD, self.sink())
        lance.write_dataset(pa.table({"note": ["precious"]}), self.to)
        with pytest.raises(InvalidOutput, match="no sink has made"):
            self.open().publish(build, receipts)
        assert lance.dataset(self.to).to_table()["note"].to_pylist() == ["precious"]

    @pytest.mark.slow
    def test_what_a_stream_of_small_steps_leaves_does_not_grow_with_their_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a week does with other limits: all scales are smaller, and the hour of former versions is over at once."""
        monkeypatch.setattr(lance_upkeep, "TIERS", ((20, 4), (400, 8)))
        monkeypatch.setattr(lance_upkeep, "UNINDEXED_ROWS", 60)
        monkeypatch.setattr(lance_upkeep, "MAX_INDEX_PARTS", 3)
        monkeypatch.setattr(lance_upkeep, "KEPT_FOR", timedelta(0))
        monkeypatch.setattr(lance_upkeep, "FEW_VERSIONS", 4)
        job, left = new_id("job"), list[tuple[int, int, int]]()
        for step in range(300):
            new, again = Document(f"d{step}", (f"step {step}", "more")), Document(f"d{step % 7}", (f"again {step}",))
            self.load([new, again] if step >= 7 else [new], step_of(job, step), mode="upsert", index=IndexSpec())
            if step > 30:
                left.append(self._left())
        most = [max(column) for column in zip(*left, strict=True)]
        assert most[0] <= 4 + 8 + 2  # of less than 20 rows, of less than 400, and larger ones
        assert most[1] <= 4
        files, early = [number for *_, number in left], 100
        assert max(files[early:]) <= max(files[:early]) + 8
        expected = [(f"d{n}", text, place) for n in range(7, 300) for place, text in enumerate((f"step {n}", "more"))]
        expected += [(f"d{n}", f"again {max(s for s in range(300) if s % 7 == n)}", 0) for n in range(7)]
        found = lance.dataset(self.to).to_table(columns=["doc", "text", "place"]).to_pylist()
        assert sorted((row["doc"], row["text"], row["place"]) for row in found) == sorted(expected)
        for text, doc in (("step 20", "d20"), ("step 299", "d299"), ("again 299", f"d{299 % 7}")):
            (nearest,) = self.open().search(self.sink(), vector_of(text), 1, {}, ["doc"])["doc"].to_pylist()
            assert nearest == doc

    def _left(self) -> tuple[int, int, int]:
        """The fragments, the parts of the index, and the files."""
        table = lance.dataset(self.to)
        (index,) = table.describe_indices()
        return len(table.get_fragments()), len(index.segments), sum(len(files) for *_, files in os.walk(self.to))

    def test_few_new_rows_are_found_before_the_index_has_them(self) -> None:
        self.load(FIRST, OLD, mode="upsert", index=IndexSpec())
        published = self.load([Document("late", ("a late text",))], NEW, mode="upsert", index=IndexSpec())
        assert published.index == "hnsw"
        (index,) = lance.dataset(self.to).describe_indices()
        assert index.num_rows_indexed == len(pieces_of(FIRST))
        (nearest,) = self.open().search(self.sink(), vector_of("a late text"), 1, {}, ["doc"])["doc"].to_pylist()
        assert nearest == "late"

    def test_an_older_step_is_refused_also_if_many_transactions_are_not_of_jobs(self) -> None:
        self.load(FIRST, NEW, mode="upsert")
        for _ in range(10):
            lance.dataset(self.to).update_config({"note": "by somebody else"})
        with pytest.raises(StaleToken):
            self.load(CHANGED, OLD, mode="upsert")
        assert self.load(FIRST, NEW, mode="upsert").rows == len(pieces_of(FIRST))
