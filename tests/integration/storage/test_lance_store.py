"""Lance as a store of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lance
import pyarrow as pa
import pytest

from batchmill.errors import InvalidOutput
from batchmill_worker.stores.lance import LanceStore
from support.store_contract import FIRST, OLD, StoreContract

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
