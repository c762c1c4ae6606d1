"""Users of streams in a chaos run: rows are sent while everything breaks, and two jobs over them never end until then.

A producer sends rows under a number until they are accepted, as the documentation says. One job passes them on, the
other makes windows of them; both are drained when everything is repaired. Then each row must be there once, in the
order in which it was sent, and the windows must be those of these rows.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import batchmill
from batchmill.errors import BatchmillError

if TYPE_CHECKING:
    from batchmill import Client
    from batchmill.jobs.status import JobStatus
    from chaos.verdict import Verdict
    from chaos.workload import Loss
    from support.cluster import Cluster

STREAM = "chaos"
ROWS_AT_ONCE = 5
SEND_S = 0.1  # between two requests
LOOK_S = 0.2
WINDOW = 7  # rows


@dataclass(slots=True)
class StreamUsers:
    """A thread that sends rows, and the jobs that read them."""

    cluster: Cluster
    losses: list[Loss]  # times whose changes the ledger has lost
    sent_at: list[float] = field(default_factory=list)  # by the number of a request: when it was accepted, monotonic
    complaints: list[str] = field(default_factory=list)
    _plain: str = ""
    _windows: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def job_ids(self) -> list[str]:
        """The jobs that read the stream."""
        return [self._plain, self._windows]

    def start(self) -> None:
        """Submit the jobs and begin to send."""
        one, source = batchmill.Stage("echo", name="one"), batchmill.Push(STREAM)
        window = batchmill.Window(count=WINDOW, aggregate={"ids": "collect:id"})
        self._plain = self.cluster.ask(lambda client: client.submit(source=source, stages=[one]).id)
        self._windows = self.cluster.ask(lambda client: client.submit(source=source, stages=[one, window]).id)
        self._thread = threading.Thread(target=self._send, name="stream users", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def settle(self, within_s: float) -> bool:
        """Wait until all rows are done, and drain the jobs; say whether they have ended."""
        ends_at = time.monotonic() + within_s
        has_drained = False
        while time.monotonic() < ends_at:
            states = [self._status(job_id) for job_id in self.job_ids]
            if all(one.is_final for one in states):
                return True
            if not has_drained and all(one.stages[0].rows_done == self._rows() for one in states):
                has_drained = True
                for job_id in self.job_ids:
                    self.cluster.ask(lambda client: client.job(job_id).drain())  # noqa: B023  # called at once
            time.sleep(LOOK_S)
        return False

    def judge(self, verdict: Verdict) -> None:
        """Look at all rows and windows."""
        found = [row["id"] for row in self._results(self._plain)]
        accepted = set(range(len(self.sent_at) * ROWS_AT_ONCE))
        excused = {row for row in accepted if self._may_be_lost(self.sent_at[row // ROWS_AT_ONCE])}
        verdict.rows += len(found)
        verdict.rows_doubled += len(found) - len(set(found))
        verdict.rows_lost += len(accepted - excused - set(found))
        verdict.rows_wrong += len(set(found) - accepted)
        if found != sorted(found):
            verdict.broken.append("the rows of the stream are not in the order in which they were sent")
        windows = [row["ids"] for row in self._results(self._windows)]
        expected = [found[first : first + WINDOW] for first in range(0, len(found), WINDOW)]
        wrong = [pair for pair in zip(windows, expected, strict=False) if pair[0] != pair[1]]
        if wrong or len(windows) != len(expected):
            verdict.broken.append(f"{len(windows)} windows, not {len(expected)}; wrong are {wrong[:3]}")
        for job_id in self.job_ids:
            status = self._status(job_id)
            if status.state.value != "completed" or status.rows_dead or (status.stream and status.stream.rows_lost):
                verdict.broken.append(f"the stream job {job_id} ended {status.state}: {status}")

    def _send(self) -> None:
        while not self._stop.wait(SEND_S):
            number = len(self.sent_at)
            rows = [{"id": number * ROWS_AT_ONCE + place} for place in range(ROWS_AT_ONCE)]
            while not self._is_accepted(rows, number + 1):
                time.sleep(LOOK_S)
            self.sent_at.append(time.monotonic())

    def _is_accepted(self, rows: list[dict[str, Any]], sequence: int) -> bool:
        def push(client: Client) -> None:
            client.push(STREAM, rows, producer="users", sequence=sequence)

        try:
            self.cluster.ask(push)
        except (BatchmillError, TimeoutError, OSError) as error:
            self.complaints += (
                [f"rows were not taken: {error}"] if not isinstance(error, batchmill.StorageError) else []
            )
            return False
        return True

    def _may_be_lost(self, accepted_at: float) -> bool:
        return any(loss.since <= accepted_at <= loss.until + 1 for loss in self.losses)

    def _rows(self) -> int:
        streams = self.cluster.ask(lambda client: client.streams())
        return next(one.rows for one in streams if one.name == STREAM)

    def _status(self, job_id: str) -> JobStatus:
        return self.cluster.ask(lambda client: client.job(job_id).status())

    def _results(self, job_id: str) -> list[dict[str, Any]]:
        return self.cluster.ask(lambda client: list(client.job(job_id).results()))
