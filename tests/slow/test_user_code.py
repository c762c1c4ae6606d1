"""User code that raises anything, dies, hangs, holds the interpreter's lock, or leaves things behind."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import batchmill
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATORS = ("hostile_operators",)
ROWS = [{"id": n} for n in range(2)]
QUICK = batchmill.RetryPolicy(backoff_s=0.1)
LIMIT_S = 3


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[batchmill.Client, Path]]:
    """A service whose hooks may take `LIMIT_S`, and whose leases last a second; with its folder."""
    folder = tmp_path_factory.mktemp("user-code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHMILL_BATCH_TIMEOUT_S", str(LIMIT_S))
        patch.setenv("BATCHMILL_LEASE_TTL_S", "2")
        with batchmill.local(workers=1, data_dir=folder, operators=OPERATORS) as client:
            yield client, folder


@pytest.fixture
def client(service: tuple[batchmill.Client, Path]) -> batchmill.Client:
    return service[0]


def submit(client: batchmill.Client, hook: str, how: str) -> Any:
    return client.submit("hostile", rows=ROWS, params={"hook": hook, "how": how, "at": 1}, retry=QUICK, carry=["id"])


def works(client: batchmill.Client) -> None:
    """Another job is done right, now."""
    other = client.submit("ordinary", rows=ROWS).wait(timeout=GRACE_S)
    assert list(other.results()) == [{"id": 0, "out": 0}, {"id": 1, "out": 1}]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", ["kill", "hold_lock"])
@pytest.mark.parametrize("hook", ["prepare", "infer", "finish", "costs"])
def test_a_row_that_ends_or_freezes_its_process_in_any_hook_is_the_only_one_lost(
    client: batchmill.Client, hook: str, how: str
) -> None:
    job = submit(client, hook, how)
    works(client)
    status = job.wait(timeout=2 * GRACE_S).status()
    assert (status.state, status.rows_done, status.rows_dead) == ("completed", 1, 1)
    assert list(job.results()) == [{"id": 0, "out": 0}]
    assert [(letter.index, letter.error_type) for letter in job.dead_letters()] == [(1, "WorkerLost")]


@pytest.mark.parametrize("how", ["kill", "hang", "hold_lock"])
@pytest.mark.parametrize("hook", ["setup", "constructor"])
def test_an_operator_that_ends_or_freezes_its_process_in_setup_fails_its_job_with_the_reason(
    client: batchmill.Client, hook: str, how: str
) -> None:
    job = submit(client, hook, how)
    works(client)
    with pytest.raises(batchmill.JobFailed) as failed:
        job.wait(timeout=2 * GRACE_S)
    why = "was ended by SIGKILL in setup" if how == "kill" else f"setup did not end within {LIMIT_S} s"
    assert why in str(failed.value)
    works(client)


@pytest.mark.parametrize("how", ["exit", "interrupt", "cancelled", "generator_exit", "panic"])
def test_what_would_end_a_thread_ends_one_row_and_no_place_of_the_worker(client: batchmill.Client, how: str) -> None:
    (before,) = client.workers()
    jobs = [submit(client, "infer", how) for _ in range(3)]  # more than the worker has places
    for job in jobs:
        status = job.wait(timeout=GRACE_S).status()
        assert (status.state, status.rows_done, status.rows_dead) == ("completed", 1, 1)
    works(client)
    (after,) = client.workers()
    assert after.pid == before.pid


def test_code_that_holds_the_interpreters_lock_for_longer_than_a_lease_computes_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHMILL_LEASE_TTL_S", "3")
    ran = tmp_path / "ran"
    with batchmill.local(workers=1, data_dir=tmp_path / "data", operators=OPERATORS) as client:
        job = client.submit("holds_lock", rows=ROWS, params={"seconds": 8, "ran": str(ran)})
        assert [row["out"] for row in job.wait(timeout=GRACE_S).results()] == [0, 1]
        assert job.status().rows_dead == 0
    assert sorted(ran.read_text().split()) == ["0", "1"]


def test_a_forked_pool_of_processes_ends_each_time(client: batchmill.Client) -> None:
    job = client.submit("squares_in_processes", rows=[{"id": n} for n in range(40)], carry=[])
    assert [row["out"] for row in job.wait(timeout=GRACE_S).results()] == [n * n for n in range(40)]


def test_a_process_that_user_code_forks_settles_nothing(client: batchmill.Client) -> None:
    job = client.submit("forks_and_returns", rows=ROWS, carry=[]).wait(timeout=GRACE_S)
    assert list(job.results()) == [{"out": 0}, {"out": 1}]
    (worker,) = client.workers()
    slot = psutil.Process(worker.pid)
    until(lambda: all(child.status() == psutil.STATUS_ZOMBIE for child in slot.children()), "the end of the copy")


@pytest.mark.parametrize("closes", [False, True])
def test_an_operator_that_takes_the_standard_streams_breaks_neither_rows_nor_the_log(
    service: tuple[batchmill.Client, Path], *, closes: bool
) -> None:
    client, folder = service
    client.submit("replaces_streams", rows=ROWS, params={"closes": closes}).wait(timeout=GRACE_S)
    works(client)
    failing = client.submit("hostile", rows=ROWS, params={"hook": "setup", "how": "exit"}, retry=QUICK)
    with pytest.raises(batchmill.JobFailed):
        failing.wait(timeout=GRACE_S)
    assert failing.id in (folder / "logs" / "worker.log").read_text()
    (worker,) = client.workers()
    os.kill(worker.pid, signal.SIGKILL)  # the next process has its streams back
    until(lambda: [one.pid for one in client.workers()] not in ([], [worker.pid]), "another process")


@pytest.mark.parametrize("how", ["killed slot", "stopped"])
def test_helper_processes_of_an_operator_end_with_its_process(tmp_path: Path, how: str) -> None:
    with batchmill.local(workers=1, data_dir=tmp_path, operators=OPERATORS) as client:
        (first, _) = client.submit("starts_helpers", rows=ROWS).wait(timeout=GRACE_S).results()
        assert not any(map(is_gone, first["pids"]))
        if how == "killed slot":
            os.kill(first["slot"], signal.SIGKILL)
            until(lambda: all(map(is_gone, first["pids"])), "the end of the helpers")
    until(lambda: all(map(is_gone, first["pids"])), "the end of the helpers")


def test_a_thread_that_never_ends_does_not_hold_up_the_end_of_the_worker(tmp_path: Path) -> None:
    with batchmill.local(workers=1, data_dir=tmp_path, operators=OPERATORS) as client:
        client.submit("leaves_a_thread", rows=ROWS).wait(timeout=GRACE_S)
        began = time.monotonic()
    assert time.monotonic() - began < 20, "the worker was killed only after its grace period"
    assert "did not stop in time" not in (tmp_path / "logs" / "worker.log").read_text()
