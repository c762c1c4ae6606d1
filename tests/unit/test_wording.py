"""How numbers, speeds and ranges read."""

from __future__ import annotations

import pytest

from batchmill.jobs.files import FileSource
from batchmill.jobs.job import JobForm, JobState, RetryPolicy, StageForm
from batchmill.jobs.status import JobStatus, StageStatus
from batchmill.wording import byte_size, eta_range, pace, progress, requested, rows_per_second, shown


def status(**changes: object) -> JobStatus:
    fields = {"id": "job-1", "state": JobState.RUNNING, "operator": "echo", "created_at": 1.0, **changes}
    return JobStatus.model_validate(fields)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (12_500, "12.5 kB"), (999_960, "1.0 MB"), (2**28, "268.4 MB"), (2**40, "1.1 TB")],
)
def test_a_number_of_bytes_has_a_unit(nbytes: int, text: str) -> None:
    assert byte_size(nbytes) == text


def test_one_row_is_singular_in_speeds_and_totals() -> None:
    assert [rows_per_second(rate) for rate in (0.0, 0.142, 0.97, 1.2, 12_345.0)] == [
        "0 rows/s",
        "0.14 rows/s",
        "1 row/s",
        "1 row/s",
        "12,345 rows/s",
    ]
    assert progress(status(rows_total=1, rows_done=1)) == "1 of 1 row"
    assert progress(status(rows_total=2, rows_done=1)) == "1 of 2 rows"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (8.0, 15.0, " (8.0 s to 15 s)"),
        (1.0, 10.0, " (1.0 s to 10 s)"),
        (0.4, 1_677_600.0, ""),
        (0.0, 5.0, ""),
        (12.0, 12.1, ""),
        (None, None, ""),
    ],
)
def test_a_range_of_the_time_left_is_shown_unless_it_is_wider_than_ten_times(
    low: float | None, high: float | None, text: str
) -> None:
    running = status(eta_s=840.0, eta_low_s=low, eta_high_s=high)

    assert eta_range(running) == text
    assert pace(running) == f"14 min 00 s left{text}"


def test_received_values_are_spelled_as_in_json_and_shortened() -> None:
    assert [shown(value) for value in (True, None, "yes", [1, 2])] == ["true", "null", '"yes"', "[1, 2]"]
    assert shown({1}) == "{1}"
    assert len(shown("x" * 1000)) == 80


def test_a_job_of_several_stages_is_called_after_them_and_lists_what_each_was_run_with() -> None:
    stages = [
        StageForm(operator="chunk", params={"size": 9}, carry=["id"], pool="cpu", retry=RetryPolicy(), cache=False),
        StageForm(operator="echo", name="last", pool="default", on_null="dead"),
        StageForm(operator="embed", retry=RetryPolicy(max_attempts=1), keep=True),
    ]
    one = status(
        stages=[StageStatus(name=stage.name or stage.operator, operator=stage.operator) for stage in stages],
        request=JobForm(stages=stages, source=FileSource(path="/in")),
    )

    assert one.title == "chunk → last → embed"
    assert requested(one) == [
        ("source", "path=/in"),
        ("options of chunk", 'size=9, carry=["id"]'),
        ("options of embed", "keep=true, retry=max_attempts=1"),
    ]
    assert status().title == "echo"
