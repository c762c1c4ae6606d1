"""Networks that lose packets, one way or both ways: for a cluster whose processes have networks of their own."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from chaos.faults import LEADER, STORE, WORKER, FaultSet, Struck
from support.cluster import LEASE_S, VALKEY
from support.networks import BOTH_WAYS, Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.networks import Network

TARGETS = (WORKER, LEADER, STORE)
LONG_S = (1.2 * LEASE_S, 3.0 * LEASE_S)  # so long that leases run out
KINDS = tuple(f"{how}_{target}" for how in ("cut_off", "mute", "deafen", "flap") for target in TARGETS)


class PartitionFaults(FaultSet):
    """Those of the links of workers, the leader and Valkey."""

    def kinds(self) -> dict[str, Callable[[], Struck | None]]:
        """See `FaultSet`. Each way of losing packets of each target is a kind."""
        lost = {"cut_off": BOTH_WAYS, "mute": (Way.FROM,), "deafen": (Way.TO,)}
        found: dict[str, Callable[[], Struck | None]] = {}
        for target in TARGETS:
            for how, ways in lost.items():
                found[f"{how}_{target}"] = partial(self._lose, f"{how}_{target}", target, ways)
            found[f"flap_{target}"] = partial(self._flap, f"flap_{target}", target)
        return found

    def _lose(self, kind: str, target: str, ways: tuple[Way, ...]) -> Struck | None:
        """Lose packets for longer than a lease lasts."""
        chosen = self._choose(target)
        if chosen is None:
            return None
        what, network = chosen
        network.lose(*ways)
        fault = Struck(kind, target, what, time.time())
        return self.repairs.after(self.chance.uniform(*LONG_S), fault, network.heal)

    def _flap(self, kind: str, target: str) -> Struck | None:
        """Cut a network off and on again, for shorter and for longer than a lease lasts; it ends connected."""
        chosen = self._choose(target)
        if chosen is None:
            return None
        (what, network), after_s = chosen, 0.0
        fault = Struck(kind, target, what, time.time())
        network.lose(*BOTH_WAYS)
        for _ in range(self.chance.randrange(2, 6)):
            after_s += self.chance.uniform(0.2, 1.5 * LEASE_S)
            self.repairs.after(after_s, fault, network.heal)
            after_s += self.chance.uniform(0.1, 1.0)
            self.repairs.after(after_s, fault, partial(network.lose, *BOTH_WAYS))
        return self.repairs.after(after_s + self.chance.uniform(0.2, 1.5 * LEASE_S), fault, network.heal)

    def _choose(self, target: str) -> tuple[str, Network] | None:
        """Return a network, and what it is of; None when there is none.

        The name of the process itself would say that it is away.
        """
        if target == WORKER:
            name = self.chance.choice(sorted(self.cluster.supervisors))
        elif target == LEADER:
            leader = self.cluster.leader()
            if leader is None:
                return None
            name = leader.name
        else:
            name = VALKEY
        return f"the network of {name}", self.cluster.networks[name]
