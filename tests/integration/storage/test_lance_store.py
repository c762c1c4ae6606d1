"""Lance as a store of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill_worker.stores.lance import LanceStore
from support.store_contract import StoreContract

if TYPE_CHECKING:
    from pathlib import Path


class TestLance(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.to = str(tmp_path / "table.lance")

    def open(self) -> LanceStore:
        return LanceStore(self.to)
