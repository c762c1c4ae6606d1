"""Faults of Valkey: it ends, is replaced, loses what was written last, answers with errors, or has a wrong clock."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import redis

from chaos.faults import STORE, FaultSet, Struck
from support import error_replies

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from chaos.faults import Repairs
    from support.cluster import Cluster, Running

REPLIES: dict[str, Callable[[Cluster], AbstractContextManager[None]]] = {
    each.__name__: each
    for each in (
        error_replies.readonly,
        error_replies.masterdown,
        error_replies.out_of_memory,
        error_replies.too_few_replicas,
        error_replies.disk_fault,
        error_replies.busy_script,
        error_replies.client_limit,
        error_replies.password_changed,
        error_replies.scripts_forbidden,
        error_replies.keys_forbidden,
        error_replies.channels_forbidden,
        error_replies.scripts_lost,
    )
}
"""What makes the server answer with errors, by kind."""

REPLY_S = 3.0
CLOCK_S = 3.0
STEPS_S = (10 * 86400, 3600, 45, -45, -3600, -10 * 86400)


class StoreFaults(FaultSet):
    """Those that need nothing but the server. One at a time: what answers with errors cannot be struck again.

    losing_changes: a context in which writes are lost that were answered.
    """

    def __init__(
        self,
        cluster: Cluster,
        chance: random.Random,
        repairs: Repairs,
        losing_changes: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(cluster, chance, repairs)
        self._losing_changes = losing_changes

    def kinds(self) -> dict[str, Callable[[], Struck | None]]:
        """See `FaultSet`. Each error reply is a kind."""
        replies = {kind: lambda kind=kind: self._answer_with(kind) for kind in REPLIES}
        return {**super().kinds(), **replies}

    def _do_cut_connections(self) -> Struck:
        with self.cluster.redis() as client:
            error_replies.cut_connections(client)
        return Struck("cut_connections", STORE, "all", time.time())

    def _do_kill_valkey(self) -> Struck | None:
        return self._stop_valkey("kill_valkey", lambda valkey: valkey.process.kill())

    def _do_stop_valkey(self) -> Struck | None:
        if self.repairs.lasts("disk_fault"):  # a server that cannot write its snapshot does not stop
            return None
        return self._stop_valkey("stop_valkey", lambda valkey: valkey.process.terminate())

    def _do_failover(self) -> Struck | None:
        """A replica that has every write takes over; what clients had sent to the old primary fails."""
        return self._fail_over("failover", stale_s=0.0)

    def _do_stale_failover(self) -> Struck | None:
        """A replica takes over that does not have the last writes, which were answered."""
        with self._losing_changes():
            return self._fail_over("stale_failover", stale_s=self.chance.uniform(0.2, 2.0))

    def _fail_over(self, kind: str, stale_s: float) -> Struck | None:
        if not self._is_sound():
            return None
        at = time.time()
        self.cluster.failover(stale_s)
        return Struck(kind, STORE, "valkey", at, undone_at=time.time())

    def _answer_with(self, kind: str) -> Struck | None:
        if not self._is_sound():
            return None
        context = REPLIES[kind](self.cluster)
        context.__enter__()
        fault = Struck(kind, STORE, "valkey", time.time())
        return self.repairs.after(REPLY_S, fault, lambda: _leave(context))

    def _stop_valkey(self, kind: str, stop: Callable[[Running], None]) -> Struck | None:
        valkey = self.cluster.valkey
        if valkey is None or self.repairs.lasts("full_store_disk"):  # without room it does not start
            return None
        stop(valkey)
        valkey.process.wait()
        self.cluster.valkey = None
        fault = Struck(kind, STORE, "valkey", time.time())
        return self.repairs.after(self.chance.uniform(0.5, 4.0), fault, self.cluster.start_valkey)

    def _is_sound(self) -> bool:
        """Whether the server is there and nothing is wrong with it."""
        return self.cluster.valkey is not None and not self.repairs.lasts(*REPLIES, "full_store_disk", "step_clock")


class ClockFaults(FaultSet):
    """The wall clock of Valkey jumps, and is corrected: for a cluster whose Valkey has a clock of its own."""

    def _do_step_clock(self) -> Struck | None:
        clock = self.cluster.clock
        if clock is None or self.repairs.lasts("step_clock", "busy_script"):
            return None
        step_s = self.chance.choice(STEPS_S)
        clock.set_ahead(step_s)
        fault = Struck("step_clock", STORE, f"{step_s:+d} s", time.time())
        return self.repairs.after(CLOCK_S, fault, lambda: clock.set_ahead(0))


def _leave(context: AbstractContextManager[None]) -> None:
    """End what the server answered with; one that was replaced has no such fault."""
    with suppress(redis.RedisError):
        context.__exit__(None, None, None)
