"""When the results of a stream become a file of its output: what is pure about it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from batchmill.jobs.files import OutputSpec
from batchmill.jobs.job import JobForm
from batchmill.jobs.streams.rolls import MAX_ROLL_SHARDS, MAX_ROWS, Range, RollLimits, Rolls
from batchmill.jobs.streams.source import Push

LIMITS = RollLimits(max_rows=100, max_bytes=1000, age_s=60)


def test_rolls_are_what_was_written() -> None:
    rolls = Rolls().begun(7, 1234)
    assert Rolls.parse(rolls.write()) == rolls == Rolls(0, 0, 7, 0, 1234)
    assert rolls.is_writing
    assert Rolls.parse(rolls.ended(50).write()) == Rolls(1, 7, 0, 50, 1234)
    assert Rolls.parse("") == Rolls()
    assert Rolls(3, 7).skipped(9, 5) == Rolls(3, 9, 0, 0, 5)


def test_a_roll_is_due_by_the_time_of_the_one_before() -> None:
    rolls = Rolls().begun(1, 1000).ended(1)
    assert not rolls.is_due(60_999, 60)
    assert rolls.is_due(61_000, 60)


@pytest.mark.parametrize(
    ("found", "rows", "nbytes", "has_room"),
    [
        (Range(0, 1, 60, 100), 40, 100, True),
        (Range(0, 1, 60, 100), 41, 100, False),
        (Range(0, 1, 60, 950), 1, 51, False),
        (Range(5, 5), 500, 5000, True),  # a shard that is too large is a roll by itself
        (Range(0, 9, 0, 0), 500, 5000, True),
        (Range(0, 9, 100, 1000), 0, 0, True),  # one without results is no reason for another file
        (Range(0, MAX_ROLL_SHARDS), 1, 1, False),
    ],
)
def test_shards_are_in_a_roll_while_there_is_room(found: Range, rows: int, nbytes: int, has_room: bool) -> None:
    assert found.has_room(rows, nbytes, LIMITS) is has_room


def test_the_limits_of_an_output_are_those_that_it_gives() -> None:
    output = OutputSpec.model_validate({"path": "/out", "max_rows_per_file": 5000, "roll_s": "10m"})
    limits = RollLimits.of(output)
    assert (limits.max_rows, limits.age_s) == (5000, 600)
    assert RollLimits.of(OutputSpec(path="/out")).max_rows == MAX_ROWS


def test_only_the_output_of_a_stream_is_rolled_by_age() -> None:
    output = OutputSpec(path="/out", roll_s=5)
    assert JobForm(operator="echo", source=Push("a"), output=output).spec().output == output
    with pytest.raises(ValidationError, match="for jobs over streams"):
        JobForm(operator="echo", output=output)
