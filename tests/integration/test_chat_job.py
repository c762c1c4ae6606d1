"""`chat` through a complete service, with a small real model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from batchmill_worker.generation.language_model import MADE
from support.language_models import SMALL
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

pytestmark = pytest.mark.models


def test_each_row_gets_its_answer_or_an_error_with_a_type(client: batchmill.Client, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": number, "body": f"number {number}"} for number in range(8)]
    rows[2]["body"] = "far too long " * 200
    rows[5]["body"] = None

    job = client.submit(
        "chat",
        rows=rows,
        params=SMALL | {"prompt": "Say {body}.", "max_tokens": 4},
        carry=["id"],
        output=tmp_path / "out",
    ).wait(timeout=GRACE_S)

    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["id", *MADE]
    assert table["id"].to_pylist() == [0, 1, 3, 4, 6, 7]
    assert all(row["text"] and 0 < row["generated_tokens"] <= 4 for row in table.to_pylist())
    assert {letter.index: letter.error_type for letter in job.dead_letters()} == {2: "ContextTooLong", 5: "RowError"}
    status = job.status()
    assert (status.rows_done, status.rows_dead) == (6, 2)
    sums = {kind: sum(table[f"{kind}_tokens"].to_pylist()) for kind in ("prompt", "cached", "generated")}
    assert status.tokens is not None
    assert status.tokens.model_dump() == sums
    assert status.stages[0].tokens == status.tokens
    assert job.cost().per_million_tokens == 0  # workers without a price
