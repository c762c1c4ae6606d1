"""A primary that sentinels watch is lost, and jobs go on with its replica, though the replica lacks its last writes."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import LedgerRefused, ServiceUnavailable
from batchmill.ledger import Ledger
from batchmill.settings import ServiceSettings
from support.certificates import make_certificates
from support.sentinels import NAME, SentinelStack
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchmill import Job
    from support.cluster import Cluster

log = logging.getLogger(__name__)

ROWS = 2000
STALE_ROWS = 20
GOES_ON_S = 10.0
REDIS = shutil.which("redis-server") or ""
WITHOUT_REDIS = pytest.mark.skipif(not REDIS, reason="redis-server is not installed, and the bundled Valkey has no TLS")
STACKS = [
    pytest.param("", False, id="bundled"),
    pytest.param(REDIS, False, id="redis", marks=WITHOUT_REDIS),
    pytest.param(REDIS, True, id="redis over TLS", marks=WITHOUT_REDIS),
]
"""Whose servers and sentinels are tested, and whether over TLS, with an authority and client certificates."""


@pytest.fixture
def stack(program: str, is_encrypted: bool, tmp_path: Path) -> Iterator[SentinelStack]:
    """Servers and sentinels of their own."""
    certificates = make_certificates(tmp_path / "certificates") if is_encrypted else None
    made = SentinelStack(tmp_path / "redis", program, certificates)
    try:
        made.start()
        yield made
    finally:
        made.close()


def start(cluster: Callable[..., Cluster], stack: SentinelStack) -> Cluster:
    running = cluster(REDIS_URL=stack.url, SHARD_TARGET_S=0.3, LEASE_TTL_S=10, LEADER_TTL_S=5)  # as in a real one
    running.start_coordinator("a")
    running.start_supervisor(2)
    return running


def slow_job(running: Cluster, journal: Path) -> Job:
    params = {"seconds": 0.01, "journal": str(journal)}
    return running.clients["a"].submit("slow", rows=[{"id": row} for row in range(ROWS)], params=params, carry=["id"])


def rows_done(running: Cluster, job: Job) -> int:
    return running.ask(lambda _: job.status()).rows_done


def check_results(running: Cluster, job: Job) -> None:
    until(lambda: running.ask(lambda _: job.status()).is_final, "the job's end")
    status = running.ask(lambda _: job.status())
    assert (str(status.state), status.rows_done, status.rows_dead) == ("completed", ROWS, 0)
    assert [row["id"] for row in job.results()] == list(range(ROWS))


@pytest.mark.parametrize(("program", "is_encrypted"), STACKS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_goes_on_within_ten_seconds_and_its_results_are_exact(
    cluster: Callable[..., Cluster], stack: SentinelStack, tmp_path: Path, how: signal.Signals
) -> None:
    running, journal = start(cluster, stack), tmp_path / "journal"
    job = slow_job(running, journal)
    until(lambda: rows_done(running, job) > 0, "the first commit")
    old, new = stack.primary(), stack.replica()
    stack.stop_copying()
    before = rows_done(running, job)
    until(lambda: rows_done(running, job) >= before + STALE_ROWS, "commits that the replica does not get")
    stack.servers[old].send_signal(how)
    lost_at = time.monotonic()
    until(lambda: stack.primary() == new, "the failover")
    done = rows_done(running, job)
    until(lambda: rows_done(running, job) > done, "a commit to the new primary")
    went_on_s = time.monotonic() - lost_at
    if how is signal.SIGSTOP:
        stack.servers[old].send_signal(signal.SIGCONT)  # a primary that nobody follows any more
    check_results(running, job)
    computed_rows = Counter(journal.read_text().split())
    assert set(computed_rows) == {str(row) for row in range(ROWS)}
    assert max(computed_rows.values()) > 1, "no write was lost: the replica was not stale"
    log.info("%s: a commit %.1f s after the loss of the primary", how.name, went_on_s)
    assert went_on_s < GOES_ON_S


@pytest.mark.parametrize(("program", "is_encrypted"), STACKS)
def test_what_is_wrong_with_sentinels_is_named(stack: SentinelStack) -> None:
    wrong = {
        stack.url.replace(f"/{NAME}/", "/other/"): (ServiceUnavailable, "knows no primary 'other'"),
        stack.url.replace("sentinel_password_file", "sentinel_username=nobody&sentinel_password_file"): (
            ServiceUnavailable,
            "invalid username-password pair",
        ),
        stack.url.replace(f"?password_file={stack.folder}", "?password_file=/none"): (LedgerRefused, "/none/password"),
    }
    for url, (kind, text) in wrong.items():
        with pytest.raises(kind) as refused:
            Ledger.open(ServiceSettings(redis_url=url)).ping()
        assert text in str(refused.value)


@pytest.mark.parametrize(("program", "is_encrypted"), STACKS[2:])
def test_sentinels_are_not_asked_whose_certificate_is_of_another_authority(
    stack: SentinelStack, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path / "other")
    assert stack.certificates is not None
    url = stack.url.replace(f"{stack.certificates.authority}".replace("/", "%2F"), f"{other.authority}")
    with pytest.raises(ServiceUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        Ledger.open(ServiceSettings(redis_url=url)).ping()
    Ledger.open(ServiceSettings(redis_url=stack.url)).ping()
