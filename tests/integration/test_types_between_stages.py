"""Rows of several types between two stages: those that do not fit the rows before fail, and keep their value."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import batchmill
from batchmill import Stage
from batchmill.errors import InvalidRequest, InvalidRows
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_in_one_shard(client: batchmill.Client, values: Sequence[Any]) -> batchmill.Job:
    """Run rows one by one through a first stage, and then all together through a second one."""
    name = f"types-{uuid4().hex}"
    stream = client.submit(source=batchmill.Push(name), stages=[Stage("echo", keep=True), Stage("echo", name="b")])
    for row, value in enumerate([None, *values]):
        client.push(name, [{"id": row, "k": value}])
        until(partial(has_done, stream, row + 1), "the row is done in the first stage")
    stream.drain()
    return client.rerun(stream.wait(GRACE_S), "b").wait(GRACE_S)


def has_done(stream: batchmill.Job, rows: int) -> bool:
    return stream.status().stages[0].rows_done == rows


@pytest.mark.parametrize(
    ("values", "made", "failed"),
    [
        ([1, "x", 2, "y"], [None, 1, 2], {2: "x", 4: "y"}),
        ([2**53 + 1, 1.5], [None, 1.5], {1: 2**53 + 1}),
    ],
)
def test_a_row_of_another_type_than_those_before_fails_alone(
    client: batchmill.Client, values: list[Any], made: list[Any], failed: dict[int, Any]
) -> None:
    job = run_in_one_shard(client, values)
    assert [row["k"] for row in job.results()] == made
    letters = list(job.dead_letters())
    assert {one.path[0]: one.row["k"] for one in letters} == failed
    assert {one.error_type for one in letters} == {"bad_value"}
    with pytest.raises(InvalidRequest, match="no dead letters to replay"):
        job.replay()
    with pytest.raises(InvalidRows, match="leaves column 'k' the value"):
        job.replay(edits={letters[0].index: {"id": 0}})
    edits = {one.index: {"k": one.path[0] + 100} for one in letters}
    job.replay(edits=edits).wait(GRACE_S)
    corrected = {row["source_row"]: row["k"] for row in job.results()}
    assert corrected == dict(enumerate([None, *values])) | {row: row + 100 for row in failed}
