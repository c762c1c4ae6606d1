"""A pool whose workers have different versions of an operator, as during a rolling update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster

ROWS = [{"id": n} for n in range(400)]


def test_a_job_is_done_by_the_version_it_began_with_and_a_mixed_pool_is_shown(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running, gate = cluster().start(slots=()), tmp_path / "gate"
    running.start_supervisor(1, operators="versioned_one")
    client = running.clients["a"]
    job = client.submit("versioned", rows=ROWS, params={"gate": str(gate)}, carry=["id"])
    until((tmp_path / "gate.started").exists, "the first batch")
    running.start_supervisor(2, operators="versioned_two")
    until(lambda: bool(client.pools()[0].mixed), "the second version in the pool")
    (pool,) = client.pools()
    assert [one.split()[0] for one in pool.mixed["versioned"]] == ["1", "2"]
    assert {worker.revisions["versioned"] for worker in client.workers()} == set(pool.mixed["versioned"])
    gate.touch()
    assert list(job.wait(timeout=GRACE_S).results()) == [{"id": n, "made_by": "1"} for n in range(400)]
    later = [client.submit("versioned", rows=ROWS, params={"gate": str(gate)}, carry=[]) for _ in range(4)]
    for other in later:
        assert len({row["made_by"] for row in other.wait(timeout=GRACE_S).results()}) == 1


def test_a_job_whose_version_is_gone_says_so_and_continues_with_another_one_if_asked(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running, gate = cluster().start(slots=()), tmp_path / "gate"
    first = running.start_supervisor(1, operators="versioned_one")
    client = running.clients["a"]
    job = client.submit("versioned", rows=ROWS, params={"gate": str(gate)}, carry=["id"])
    until((tmp_path / "gate.started").exists, "the first batch")
    first.kill()
    del running.supervisors["worker-1"]
    running.start_supervisor(1, operators="versioned_two")
    until(lambda: "it began with version 1 (" in (job.status().note or ""), "the note of the blocked job")
    assert f"batchmill resume {job.id} --any-version" in str(job.status().note)
    gate.touch()
    job.resume(any_version=True)
    assert list(job.wait(timeout=GRACE_S).results()) == [{"id": n, "made_by": "2"} for n in range(400)]


def test_a_job_of_any_version_goes_on_in_a_mixed_pool_and_when_its_first_version_is_gone(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running, gate = cluster().start(slots=()), tmp_path / "gate"
    running.start_supervisor(1, operators="versioned_one")
    client = running.clients["a"]
    params = {"gate": str(gate)}
    job = client.submit("versioned", rows=ROWS, params=params, carry=["id"], any_version=True)
    request = job.status().request
    assert request is not None
    assert request.any_version
    until((tmp_path / "gate.started").exists, "the first batch")
    running.start_supervisor(2, operators="versioned_two")
    until(lambda: bool(client.pools()[0].mixed), "the second version in the pool")
    running.supervisors.pop("worker-1").kill()
    gate.touch()
    made = list(job.wait(timeout=GRACE_S).results())
    assert [row["id"] for row in made] == list(range(400))
    assert "2" in {row["made_by"] for row in made} <= {"1", "2"}


def test_a_job_that_was_submitted_for_a_version_that_is_gone_says_so_before_it_began(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running, gate = cluster().start(slots=()), tmp_path / "gate"
    first = running.start_supervisor(1, operators="versioned_one")
    client = running.clients["a"]
    params = {"gate": str(gate)}
    gate.touch()
    client.submit("versioned", rows=ROWS[:1], params=params).wait(timeout=GRACE_S)
    first.kill()
    del running.supervisors["worker-1"]
    job = client.submit("versioned", rows=ROWS, params=params, carry=["id"])
    running.start_supervisor(1, operators="versioned_two")
    until(lambda: "it was submitted for version 1 of the operator" in (job.status().note or ""), "the note")
    job.resume(any_version=True)
    assert list(job.wait(timeout=GRACE_S).results()) == [{"id": n, "made_by": "2"} for n in range(400)]
