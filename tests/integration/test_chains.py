"""Jobs of several stages, end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill import Stage
from support.waiting import GRACE_S

if TYPE_CHECKING:
    import batchmill

WORDS = "one two three four five six seven eight nine ten"
DOCUMENTS = [{"id": n, "text": " ".join([WORDS] * (1 + n % 5))} for n in range(300)]


def chunk_stage(**options: Any) -> Stage:
    return Stage("chunk", size=40, overlap=0, **options)


def chunks_of(client: batchmill.Client, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `chunk` alone makes of these rows."""
    return list(client.submit("chunk", rows, params={"size": 40, "overlap": 0}).wait(GRACE_S).results())


@pytest.mark.parametrize("rows", [DOCUMENTS[:5], DOCUMENTS], ids=["small", "large"])
def test_rows_pass_through_all_stages_in_order(client: batchmill.Client, rows: list[dict[str, Any]]) -> None:
    stages = [Stage("echo", name="first"), chunk_stage(), Stage("echo", name="last")]
    job = client.submit(rows=rows, stages=stages).wait(GRACE_S)
    found = list(job.results())
    expected = chunks_of(client, rows)
    assert [row["text"] for row in found] == [row["text"] for row in expected]
    assert [row["source_row"] for row in found] == [row["source_row"] for row in expected]
    assert [row["source_path"] for row in found] == [[row["chunk"]] for row in expected]
    assert [stage.rows_done for stage in job.status().stages] == [len(rows), len(rows), len(expected)]
