"""What interactive requests cost: summed by tenant and operator, and charged about once a second."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill.jobs.cost import Parts
from batchmill.ledger.lane import LaneCharge
from batchmill.processes.guarded_thread import GuardedThread
from batchmill_worker.runtime.device_time import divide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.formats.lane_messages import LaneRequest
    from batchmill.ledger.lane import LaneLedger

log = logging.getLogger(__name__)

INTERVAL_S = 1.0


class LaneCharges:
    """The charges of one process that are not in the ledger yet. price_nano: of an hour of it. Thread-safe."""

    def __init__(self, lane: LaneLedger, pool: str, price_nano: int) -> None:
        self._lane = lane
        self._pool = pool
        self._price_nano = price_nano
        self._lock = threading.Lock()
        self._used: dict[tuple[str, str], tuple[Parts, int]] = {}
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._sent: deque[LaneCharge] = deque()  # the ledger has not confirmed them; used by the thread alone
        self._stopping = threading.Event()
        self._thread = GuardedThread("lane charges", self._run)

    def start(self) -> None:
        """Begin to charge."""
        self._thread.start()

    def stop(self) -> None:
        """Charge what is left."""
        self._stopping.set()
        self._thread.join()

    def add(self, operator: str, requests: Sequence[LaneRequest], used: Parts) -> None:
        """Charge the tenants of requests that were computed together, each by its rows."""
        rows: Counter[str] = Counter()
        for request in requests:
            rows[request.tenant] += max(len(request.rows), 1)
        shares = [divide(amount, list(rows.values())) for amount in used.amounts] if rows else []
        with self._lock:
            for (tenant, count), amounts in zip(rows.items(), zip(*shares, strict=True), strict=True):
                self._add(tenant, operator, Parts(*amounts), count)

    def add_load(self, operator: str, tenant: str, used: Parts) -> None:
        """Charge a tenant for a model that was loaded for it."""
        with self._lock:
            self._add(tenant, operator, used, 0)

    def _add(self, tenant: str, operator: str, used: Parts, rows: int) -> None:
        before, rows_before = self._used.get((tenant, operator), (Parts(), 0))
        self._used[tenant, operator] = before + used, rows_before + rows

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._charge()
        self._charge()
        if not self._sent:  # it may have been what an outage had left over
            self._charge()

    def _charge(self) -> None:
        """Send what is not charged yet. What may have been, its answer being lost, is sent again as it was."""
        if not self._sent:
            with self._lock:
                found, self._used = self._used, {}
            for (tenant, operator), (used, rows) in found.items():
                number = next(self._numbers)
                self._sent.append(LaneCharge(number, tenant, self._pool, operator, self._price_nano, used, rows))
        try:
            while self._sent:
                self._lane.charge(self._process, self._sent[0])
                self._sent.popleft()
        except ServiceUnavailable as error:
            log.warning("interactive requests are charged later: %s", error)
