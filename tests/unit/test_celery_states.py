"""The state in which an attempt appears in Celery's events."""

from __future__ import annotations

import pytest
from celery.exceptions import Ignore, Retry
from kombu.exceptions import OperationalError

from batchmill.broker import describe_arguments
from batchmill.jobs.completion import Completion
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.slot.celery_app import AttemptFailed, end_task


class Task:
    """Notes the events that are sent by hand."""

    def __init__(self, *, broker_is_away: bool = False) -> None:
        self.sent: list[str] = []
        self._away = broker_is_away

    def send_event(self, kind: str, **_: object) -> None:
        if self._away:
            raise OperationalError("no broker")
        self.sent.append(kind)


def test_a_settled_shard_succeeds_with_its_numbers_of_rows() -> None:
    result = AttemptResult.of_commit(Completion(rows=18, rows_dead=2, nbytes=9, dead_by_type=(("ValueError", 2),)))

    assert end_task(Task(), result) == "18 rows, 2 failed: ValueError"
    assert end_task(Task(), AttemptResult.of_commit(Completion(rows=20, rows_dead=0, nbytes=9))) == "20 rows"


def test_a_shard_in_which_every_row_failed_is_a_failure() -> None:
    result = AttemptResult.of_commit(Completion(rows=0, rows_dead=2, nbytes=0, dead_by_type=(("ValueError", 2),)))

    with pytest.raises(AttemptFailed, match="all 2 rows failed: ValueError"):
        end_task(Task(), result)


def test_an_attempt_that_is_requeued_is_a_retry_with_its_reason() -> None:
    with pytest.raises(Retry) as caught:
        end_task(Task(), AttemptResult(AttemptStatus.REQUEUED, "the disk was full"))
    assert "the disk was full" in str(caught.value.exc)


def test_an_attempt_that_ends_its_job_is_a_failure_with_its_reason() -> None:
    with pytest.raises(AttemptFailed, match="nothing works"):
        end_task(Task(), AttemptResult(AttemptStatus.FAILED, "nothing works"))


def test_a_dropped_attempt_is_revoked_even_without_a_broker() -> None:
    listened, away = Task(), Task(broker_is_away=True)
    for task in (listened, away):
        with pytest.raises(Ignore, match="another's"):
            end_task(task, AttemptResult(AttemptStatus.DROPPED, "it is another's"))
    assert listened.sent == ["task-revoked"]


def test_arguments_are_described_in_words() -> None:
    ref = ShardRef("job-1", 0, ShardId((17, 1)), 3)
    assert describe_arguments(ref, None) == "#3 shard 17.1 · job-1"
    assert describe_arguments(ref, None, "embed") == "#3 embed shard 17.1 · job-1"
    assert describe_arguments(ref, "nightly\n") == "#3 shard 17.1 · nightly\\n · job-1"
