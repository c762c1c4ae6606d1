"""Users of streams in a chaos run: rows are sent while everything breaks, and jobs over them never end until then.

A producer sends rows under a number until they are accepted, as the documentation says. One job passes them on, others
make windows of them: of some rows each, and by event time. All are drained when everything is repaired. Then each row
must be there once, in the order in which it was sent, and the windows must be those of these rows: each has fired as
often as `window_oracle` says, with these rows, and just the rows that were too late have failed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import batchmill
from batchmill.errors import BatchmillError
from chaos.window_oracle import Event, Fired, Rule, windows_of

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
BEGAN_MS = 1_800_000_000_000  # event time
RULES = {
    "tumbling": Rule(size=1000, wait=500, late=1500),
    "sessions": Rule(size=150, wait=500, late=1500, is_session=True),
    "groups": Rule(size=1000, wait=500, late=1500),
    "sessions in groups": Rule(size=150, wait=500, late=1500, is_session=True),
}
GROUPS = {"groups": 3, "sessions in groups": 2}
"""Of keys, of some of the rules."""


def event_of(number: int) -> Event:
    """Return what a row says: mostly in some disorder, some for windows that have fired, a few too late for any."""
    behind = 30_000 if number % 41 == 7 else 1200 if number % 13 == 5 else number * 7919 % 400
    return Event(number, number % 4, BEGAN_MS + number * 40 - behind)


@dataclass(slots=True)
class StreamUsers:
    """A thread that sends rows, and the jobs that read them."""

    cluster: Cluster
    losses: list[Loss]  # times whose changes the ledger has lost
    sent_at: list[float] = field(default_factory=list)  # by the number of a request: when it was accepted, monotonic
    complaints: list[str] = field(default_factory=list)
    _plain: str = ""
    _windows: str = ""
    _timed: dict[str, str] = field(default_factory=dict)  # the jobs with windows by event time, by the rule's name
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def job_ids(self) -> list[str]:
        """The jobs that read the stream."""
        return [self._plain, self._windows, *self._timed.values()]

    def start(self) -> None:
        """Submit the jobs and begin to send."""
        one, source = batchmill.Stage("echo", name="one"), batchmill.Push(STREAM)
        window = batchmill.Window(count=WINDOW, aggregate={"ids": "collect:id"})
        self._plain = self.cluster.ask(lambda client: client.submit(source=source, stages=[one]).id)
        self._windows = self.cluster.ask(lambda client: client.submit(source=source, stages=[one, window]).id)
        for name, rule in RULES.items():
            timed = [one, _window(rule, GROUPS.get(name, 1))]
            self._timed[name] = self.cluster.ask(lambda client: client.submit(source=source, stages=timed).id)  # noqa: B023  # called at once
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
            rows = self._rows()
            if not has_drained and all(one.stages[0].rows_done + one.stages[0].rows_dead == rows for one in states):
                has_drained = True
                for job_id in self.job_ids:
                    self.cluster.ask(lambda client: client.job(job_id).drain())  # noqa: B023  # called at once
            time.sleep(LOOK_S)
        return False

    def unfinished(self) -> list[str]:
        """Say how far the jobs are that have not ended."""
        states = [one for one in map(self._status, self.job_ids) if not one.is_final]
        return [f"the stream job {one.id} has not ended, {self._rows()} rows were sent: {one}" for one in states]

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
        failed = {job_id: self._judge_timed(verdict, name, found) for name, job_id in self._timed.items()}
        for job_id in self.job_ids:
            status, dead = self._status(job_id), failed.get(job_id, 0)
            if (
                status.state.value != "completed"
                or status.rows_dead != dead
                or (status.stream and status.stream.rows_lost)
            ):
                verdict.broken.append(f"the stream job {job_id} ended {status.state}, {dead} rows are late: {status}")

    def _judge_timed(self, verdict: Verdict, name: str, rows: list[int]) -> int:
        """Look at all firings of windows by event time, and at the rows that are late; return how many these are."""
        job_id = self._timed[name]
        fired, late = windows_of(RULES[name], map(event_of, rows))
        found, expected = Counter(map(_fired, self._results(job_id))), Counter(fired)
        if found != expected:
            missing, extra = list(expected - found), list(found - expected)
            verdict.broken.append(
                f"{name}: {len(missing)} of {len(fired)} firings are missing: {missing[:3]}, and {len(extra)} are "
                f"none of them: {extra[:3]}"
            )
        dead = self.cluster.ask(lambda client: client.job(job_id).dead_letters())
        refused = sorted((one.row["id"], one.error_type) for one in dead)
        if refused != [(row, "late") for row in sorted(late)]:
            verdict.broken.append(f"{name}: {len(refused)} rows have failed, not {len(late)}: {refused[:5]}")
        return len(late)

    def _send(self) -> None:
        while not self._stop.wait(SEND_S):
            number = len(self.sent_at)
            first = number * ROWS_AT_ONCE
            rows = [event_of(row)._asdict() for row in range(first, first + ROWS_AT_ONCE)]
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


def _window(rule: Rule, groups: int) -> batchmill.Window:
    more: dict[str, Any] = {"aggregate": {"ids": "collect:id"}, "groups": groups}
    length, wait, late = f"{rule.size}ms", f"{rule.wait}ms", f"{rule.late}ms"
    if rule.is_session:
        return batchmill.Window(by="key", time="at", session=length, wait=wait, late=late, **more)
    return batchmill.Window(by="key", time="at", tumbling=length, wait=wait, late=late, **more)


def _fired(row: dict[str, Any]) -> Fired:
    ids = tuple(sorted(row["ids"] or ()))
    return Fired(row["key"], row["window_id"], row["revision"], row["merged_into"], ids)
