"""Sources whose rows are one split."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchmill.errors import InvalidSource
from batchmill.sources import End, InlineSource, InputSplit, undivided
from batchmill.sources.undivided import UndividedSplitter

ROWS = InlineSource(pa.table({"n": list(range(1_000))}))


def test_all_rows_are_one_split_and_then_it_ends() -> None:
    with UndividedSplitter(ROWS.splitter("")) as splitter:
        split = splitter.next_split(1, 64)
        assert isinstance(split, InputSplit)
        assert len(split.slices) > 1
        assert ROWS.read(split.slices)["n"].to_pylist() == list(range(1_000))
        assert (split.rows, splitter.next_split(1, 64)) == (1_000, End())
    with UndividedSplitter(ROWS.splitter(split.cursor)) as again:
        assert again.next_split(1, 64) == End()


def test_rows_in_too_many_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undivided, "MAX_SLICES", 3)
    with UndividedSplitter(ROWS.splitter("")) as splitter, pytest.raises(InvalidSource, match="more than 3 files"):
        splitter.next_split(1, 64)
