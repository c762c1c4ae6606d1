"""Replies to coordinators: numbered, and sent by one thread, so that what comes while it sends goes together."""

from __future__ import annotations

import json
import logging
from collections import deque
from threading import Condition
from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.formats.lane_messages import LaneReply, ReplyKind
from batchmill.processes.guarded_thread import GuardedThread

if TYPE_CHECKING:
    from batchmill.errors import BatchmillError
    from batchmill.ledger.formats.lane_messages import LaneRequest
    from batchmill.ledger.lane import LaneLedger

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 16 * 1024 * 1024
"""Of one request: Redis holds it for each coordinator that reads slowly."""


class Ticket:
    """One request in this process.

    is_aborted: nobody waits for it any more. is_handed_on: another thread than that which took it answers it.
    """

    def __init__(self, request: LaneRequest, outbox: Outbox) -> None:
        self.request = request
        self.is_aborted = False
        self.is_handed_on = False
        self._outbox = outbox
        self._number = 1  # 0 is the note that it was taken

    def text(self, row: int, text: str) -> None:
        """Send more text of a row."""
        self._send(ReplyKind.TEXT, json.dumps([row, text]).encode())

    def done(self, results: bytes) -> None:
        """Send the results, an Arrow IPC stream."""
        self._send(ReplyKind.DONE, results)

    def failed(self, error: BatchmillError) -> None:
        """Send an error."""
        self._send(ReplyKind.ERROR, json.dumps(error.envelope()).encode())

    def _send(self, kind: ReplyKind, payload: bytes) -> None:
        request = self.request
        if not self.is_aborted:
            number, self._number = self._number, self._number + 1
            self._outbox.put(request.coordinator, LaneReply(request.id, request.attempt, number, kind, payload))


class Outbox:
    """Sends replies in order, from a thread of its own. What cannot be sent is lost: the coordinator notices."""

    def __init__(self, lane: LaneLedger) -> None:
        self._lane = lane
        self._changed = Condition()
        self._waiting: deque[tuple[str, LaneReply]] = deque()
        self._is_stopped = False
        self._thread = GuardedThread("lane replies", self._run)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End, once everything is sent."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        self._thread.join()

    def note_taken(self, tickets: list[Ticket], worker: str) -> list[Ticket]:
        """Notify the coordinators that their requests are here; return those for which somebody waits."""
        notes = [
            (
                one.request.coordinator,
                LaneReply(one.request.id, one.request.attempt, 0, ReplyKind.TAKEN, worker.encode()),
            )
            for one in tickets
        ]
        return [ticket for ticket, is_awaited in zip(tickets, self._lane.reply(notes), strict=True) if is_awaited]

    def put(self, coordinator: str, reply: LaneReply) -> None:
        """Send a reply soon."""
        with self._changed:
            self._waiting.append((coordinator, reply))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopped)
                if not self._waiting:
                    return
                found = list(self._waiting)
                self._waiting.clear()
            try:
                self._lane.reply(found)
            except ServiceUnavailable as error:
                log.warning("%d replies of the lane are lost: %s", len(found), error)
