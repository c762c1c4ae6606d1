"""Rows as stores get them: which vectors are refused, and ids that stay the same."""

from __future__ import annotations

import math
import uuid

import pyarrow as pa
import pytest

from batchmill.columns.lineage import SOURCE_PATH, SOURCE_ROW
from batchmill.jobs.sink import ID, ROOT, SinkSpec
from batchmill_worker.stores.rows import row_ids, stored_rows

SINK = SinkSpec(to="/index.lance")
LARGEST = 3.4e38


def rows_of(vectors: list[list[float]]) -> tuple[pa.Table, pa.Table]:
    column = pa.array(vectors, pa.list_(pa.float32()))
    table = pa.table({"text": [f"text {row}" for row in range(len(vectors))], "embedding": column})
    return table, pa.table({SOURCE_ROW: list(range(len(vectors)))})


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [math.inf, -math.inf]])
def test_a_vector_with_a_number_that_is_not_finite_costs_its_row_only(bad: list[float]) -> None:
    table, lineage = rows_of([[1.0, 2.0], bad, [3.0, 4.0]])
    stored, errors = stored_rows(table, lineage, SINK, "job-1")
    assert {place: error.message for place, error in errors.items()} == {
        1: "its vector has a number that is not finite."
    }
    assert stored["embedding"].to_pylist() == [[1.0, 2.0], [3.0, 4.0]]
    assert (stored["text"].to_pylist(), stored[ROOT].to_pylist()) == (["text 0", "text 2"], ["0", "2"])


def test_finite_numbers_whose_sum_is_beyond_the_largest_are_stored() -> None:
    table, lineage = rows_of([[LARGEST, LARGEST], [-LARGEST, -LARGEST]])
    stored, errors = stored_rows(table, lineage, SINK, "job-1")
    assert (stored.num_rows, errors) == (2, {})


def test_no_row_at_all_is_none() -> None:
    table, lineage = rows_of([[1.0, 2.0]])
    stored, errors = stored_rows(table.slice(0, 0), lineage.slice(0, 0), SINK, "job-1")
    assert (stored.num_rows, errors) == (0, {})


def test_ids_are_those_that_earlier_versions_gave() -> None:
    assert row_ids(["0", "a document", "0"], [(), (1, 2), (0,)]).to_pylist() == [
        "f21878fe-44b2-5559-a001-6a1efcd2dfc2",
        "b742d801-cd6e-5f18-8b39-79f50557d8b8",
        "f66a26f0-29c5-527d-a15d-9a312595fa57",
    ]


def test_ids_depend_on_document_and_path_and_not_on_the_job() -> None:
    table, _ = rows_of([[1.0, 2.0]] * 3)
    lineage = pa.table({SOURCE_ROW: [7, 7, 8], SOURCE_PATH: [[0], [1], [0]]})
    ids = stored_rows(table, lineage, SINK, "job-1")[0][ID].to_pylist()
    assert len(set(ids)) == 3
    assert all(uuid.UUID(one).version == 5 for one in ids)
    assert stored_rows(table, lineage, SINK, "job-2")[0][ID].to_pylist() == ids
