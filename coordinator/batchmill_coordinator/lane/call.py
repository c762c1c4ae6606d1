"""One interactive request, from its dispatch to its last reply. For use on the event loop."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, WorkerLost, from_envelope
from batchmill.ledger.formats.lane_messages import LaneReply, ReplyKind

if TYPE_CHECKING:
    from batchmill.ledger.formats.lane_messages import LaneRequest
    from batchmill_coordinator.lane.target import LaneTarget


class LaneCall:
    """A request that a client waits for.

    worker: who has it; None: nobody has said so. has_output: whether a piece of the answer has arrived. first_at: when
    that was. outcome: as metrics have it.
    """

    def __init__(self, target: LaneTarget, request: LaneRequest, *, pushed_at: float, ends_at: float) -> None:
        self.target = target
        self.request = request
        self.began_at = self.pushed_at = pushed_at
        self.first_at: float | None = None
        self.outcome = "done"
        self.ends_at = ends_at
        self.worker: str | None = None
        self.missed = 0  # looks at which it was neither waiting nor taken
        self.has_output = False
        self.is_over = False
        self._next_number = 0
        self._replies: asyncio.Queue[LaneReply | BatchmillError] = asyncio.Queue()

    @property
    def is_waiting(self) -> bool:
        """Whether no worker has taken the request."""
        return self.worker is None and not self.is_over

    def give_to_another(self, now: float) -> LaneRequest:
        """Begin the second attempt; replies of the first are ignored from now on."""
        self.request = self.request.again()
        self.worker, self.missed, self.pushed_at, self._next_number = None, 0, now, 0
        return self.request

    def deliver(self, reply: LaneReply) -> bool:
        """Take a reply; False if one before it is missing."""
        if self.is_over or reply.attempt != self.request.attempt:
            return True
        if reply.number != self._next_number:
            return False
        self._next_number += 1
        if reply.kind is ReplyKind.TAKEN:
            self.worker = reply.payload.decode()
            return True
        if not self.has_output:
            self.has_output, self.first_at = True, asyncio.get_running_loop().time()
        self.is_over = reply.is_last
        self._replies.put_nowait(reply)
        return True

    def fail(self, error: BatchmillError) -> None:
        """End the call by an error."""
        if not self.is_over:
            self.is_over, self.outcome = True, error.code
            self._replies.put_nowait(error)

    async def next(self) -> tuple[int, str] | bytes:
        """Return a row with more text of its answer, or all results as an Arrow IPC stream: the last one.

        Raises the error that the call ends with.
        """
        reply = await self._replies.get()
        if isinstance(reply, BatchmillError):
            raise reply
        if reply.kind is ReplyKind.ERROR:
            error = from_envelope(json.loads(reply.payload), 500)
            self.outcome = error.code
            raise error
        if reply.kind is ReplyKind.DONE:
            return reply.payload
        row, text = json.loads(reply.payload)
        return int(row), str(text)

    async def results(self) -> bytes:
        """Return all results, as an Arrow IPC stream. Raises the error that the call ends with."""
        while isinstance(found := await self.next(), tuple):
            pass
        return found


def lost(target: LaneTarget, why: str) -> WorkerLost:
    """Return the error for a call whose answer will not come."""
    return WorkerLost(f"the request to {target.title!r} was lost: {why}.", hint="Send it again.")
