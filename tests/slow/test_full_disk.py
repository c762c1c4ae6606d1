"""A real disk is full for a while: no attempt of a shard is used up, and the job completes with every row."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import batchmill
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.cluster import Cluster

import pytest

MIB = 1024 * 1024
ROWS = 300
NBYTES = 20_000  # a row
WAITS = 4  # more than the job has attempts


@contextmanager
def disk(folder: Path, nbytes: int) -> Iterator[None]:
    """A disk of that size, mounted on the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:  # its own command
        pytest.skip("this user may not mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # as above


def fill(path: Path) -> None:
    """Write a file that takes all that is left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(path).free == 0


def storage_waits(job: batchmill.Job) -> int:
    return sum("No space left on device" in entry.message for entry in job.log())


@pytest.mark.parametrize("full", ["blobs", "output"])
def test_a_job_waits_for_room_and_spends_no_attempt(cluster: Callable[..., Cluster], tmp_path: Path, full: str) -> None:
    running = cluster()
    folder = running.blobs if full == "blobs" else tmp_path / "disk"
    with disk(folder, 32 * MIB):
        running.start(slots=(1,))
        running.supervisors["worker-1"].kill()  # its operators stay announced for a while
        job = running.clients["a"].submit(
            "wordy",
            rows=[{"id": n} for n in range(ROWS)],
            params={"nbytes": NBYTES},
            output=str(folder / "out") if full == "output" else None,
            retry=batchmill.RetryPolicy(max_attempts=2, backoff_s=0.1),
        )
        fill(folder / "filler")
        running.start_supervisor(2)
        until(lambda: storage_waits(job) >= WAITS, "attempts that find the disk full")
        assert job.status().rows_dead == 0
        os.truncate(folder / "filler", 0)
        job.wait(timeout=GRACE_S)
        found = list(job.results())
        assert found == [{"id": n, "text": str(n).rjust(NBYTES, ".")} for n in range(ROWS)]
        running.close()
