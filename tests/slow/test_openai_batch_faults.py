"""Batches while processes die and time runs out: each line of the file is in one of the two files, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import psutil
import pytest

from support.cluster import TOKEN, Cluster
from support.openai_batches import create, ended, line, read
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from openai.types import Batch

URL = "/v1/operators/slow"
LINES = 1000


def client_of(running: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url('a')}/v1", api_key=TOKEN, max_retries=0)


def begin(api: openai.OpenAI, folder: Path, **options: str) -> Batch:
    params = {"seconds": 0.02, "journal": str(folder / "journal")}
    return create(api, URL, [line(n, URL, row={"id": n}, params=params) for n in range(LINES)], **options)


def replace_coordinator(running: Cluster) -> None:
    running.coordinators["a"].kill()
    running.start_coordinator("a")


def ids_of(api: openai.OpenAI, batch: Batch) -> list[str]:
    """The ids of the lines in both files, in the order of their numbers."""
    lines = [*read(api, batch.output_file_id), *read(api, batch.error_file_id)]
    return sorted((one["custom_id"] for one in lines), key=lambda name: int(name.split("-")[1]))


def test_every_line_is_answered_once_while_workers_and_coordinators_are_killed(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(2,))
    with client_of(running) as api:
        batch = begin(api, tmp_path)
        replace_coordinator(running)
        until(lambda: api.batches.retrieve(batch.id).status == "in_progress", "the start of the job")
        replace_coordinator(running)
        until((tmp_path / "journal").exists, "the first row")
        psutil.Process(running.slots()[-1].pid).kill()
        until(lambda: api.batches.retrieve(batch.id).status != "in_progress", "the end of the job")
        replace_coordinator(running)
        batch = ended(api, batch)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": LINES, "completed": LINES, "failed": 0}
        assert [one["custom_id"] for one in read(api, batch.output_file_id)] == [f"line-{n}" for n in range(LINES)]
        assert batch.error_file_id is None
        outputs = [file.id for file in api.files.list() if file.purpose == "batch_output"]
        assert outputs == [batch.output_file_id]
        jobs = running.ask(lambda client: [job.status().name for job in client.jobs(limit=10)])
        assert jobs == [batch.id]


def test_a_batch_that_expires_keeps_what_is_done(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    running = cluster().start(slots=(1,))
    with client_of(running) as api:
        batch = begin(api, tmp_path, window="8s")
        batch = ended(api, batch)
        assert (batch.status, batch.completion_window) == ("expired", "8s")
        assert batch.expired_at is not None
        assert batch.expires_at is not None
        assert batch.expired_at >= batch.expires_at
        assert ids_of(api, batch) == [f"line-{n}" for n in range(LINES)]
        output, failed = read(api, batch.output_file_id), read(api, batch.error_file_id)
        assert output
        assert failed
        assert all(one["error"]["code"] == "batch_expired" and one["response"] is None for one in failed)
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": LINES, "completed": len(output), "failed": 0}


@pytest.mark.parametrize("moment", ["before it is validated", "while it runs"])
def test_a_batch_is_cancelled_although_its_coordinator_dies(
    cluster: Callable[..., Cluster], tmp_path: Path, moment: str
) -> None:
    running = cluster().start(slots=(1,))
    with client_of(running) as api:
        batch = begin(api, tmp_path)
        if moment == "while it runs":
            until((tmp_path / "journal").exists, "the first row")
        api.batches.cancel(batch.id)
        replace_coordinator(running)
        batch = ended(api, batch)
        assert batch.status == "cancelled"
        if batch.to_dict()["job"] is None:
            assert (batch.output_file_id, batch.error_file_id) == (None, None)
        else:
            assert ids_of(api, batch) == [f"line-{n}" for n in range(LINES)]
