"""Messages of the queue that are lost, doubled, or of attempts that are over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from chaos.faults import MESSAGE, FaultSet, Struck
from support.cluster import KEYS
from support.messages import QUEUE, attempt_of, readdressed

if TYPE_CHECKING:
    import random

    from chaos.faults import Repairs
    from support.cluster import Cluster

MESSAGE_S = 2.0  # to wait for a message to strike


class MessageFaults(FaultSet):
    """Those of the queue of the default pool."""

    def __init__(self, cluster: Cluster, chance: random.Random, repairs: Repairs) -> None:
        super().__init__(cluster, chance, repairs)
        self._message = ""  # one that was seen in the queue

    def _do_lose_message(self) -> Struck | None:
        lost = self._await_message("lpop", QUEUE)
        self._message = lost or self._message
        return Struck("lose_message", MESSAGE, _told(lost), time.time()) if lost else None

    def _do_double_message(self) -> Struck | None:
        found = self._await_message("lindex", QUEUE, 0)
        if found is None:
            return None
        self._message = found
        with self.cluster.redis() as client:
            client.rpush(QUEUE, found)
        return Struck("double_message", MESSAGE, _told(found), time.time())

    def _do_stray_message(self) -> Struck | None:
        """A message of an attempt that was over long ago: the first of the first job's first shard."""
        with self.cluster.redis() as client:
            self._message = self._message or client.lindex(QUEUE, 0) or ""
            jobs = client.zrange(KEYS.jobs(), 0, 0)
            if not self._message or not jobs:
                return None
            client.lpush(QUEUE, readdressed(self._message, [jobs[0], 0, "0", 1]))
        return Struck("stray_message", MESSAGE, jobs[0], time.time())

    def _await_message(self, command: str, *arguments: str | int) -> str | None:
        """What the command gets from the queue; a worker that is quick leaves it empty most of the time."""
        ends_at = time.monotonic() + MESSAGE_S
        with self.cluster.redis() as client:
            while time.monotonic() < ends_at:
                found: str | None = getattr(client, command)(*arguments)
                if found is not None:
                    return found
                time.sleep(0.001)
        return None


def _told(message: str) -> str:
    return " ".join(map(str, attempt_of(message)))
