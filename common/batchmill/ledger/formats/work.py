"""How much work there is, as the scripts sum it up over the jobs that have not ended (`work` in `_indexes.lua`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.jobs.cost import parse_pool_operator

if TYPE_CHECKING:
    from collections.abc import Mapping

ROW_STATES = ("left", "done", "dead")


@dataclass(slots=True)
class PoolWork:
    """The work of one pool: of its jobs that may run, except where a field says otherwise."""

    jobs: int = 0  # that have not ended, paused ones included
    shards: int = 0  # not settled
    shards_in_flight: int = 0  # of them, those that are queued or running
    shards_running: int = 0  # of all jobs
    rows: int = 0  # neither done nor failed, as far as their number is known
    expected_us: int = 0  # of device time, that the rows left will take by what rows of the same stages took
    unpaced: Counter[str] = field(default_factory=Counter)  # by operator: rows left of stages without a charged row
    open_sources: int = 0  # stages that read a source whose length is not known yet
    over_budget: int = 0  # jobs that are paused because their budget is used up; by their first stage


@dataclass(frozen=True, slots=True)
class Work:
    """Sums over all jobs that have not ended: by operator, pool and state, and by pool; and whose jobs they are."""

    jobs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    shards: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    pools: dict[str, PoolWork] = field(default_factory=lambda: defaultdict(PoolWork))
    tenants: set[str] = field(default_factory=set)

    @classmethod
    def from_hash(cls, found: Mapping[bytes, bytes]) -> Work:
        """Read the sums."""
        work = cls()
        for name, amount in found.items():
            what, _, rest = name.decode().partition(" ")
            state, _, subject = rest.partition(" ")
            match what:
                case "generation":
                    continue
                case "owner":
                    work.tenants.add(subject)
                case "spent":
                    work.pools[subject].over_budget += int(amount)
                case "job":
                    pool, operator = parse_pool_operator(subject)
                    work.jobs[operator, pool, state] += int(amount)
                case _:
                    work._add(what, int(amount), *parse_pool_operator(subject), may_run=state == "1")
        return work

    def _add(self, what: str, amount: int, pool: str, operator: str, *, may_run: bool) -> None:
        of_pool = self.pools[pool]
        if what == "held":
            of_pool.jobs += amount
        elif what == "expected":
            of_pool.expected_us += amount * may_run
        elif what == "unpaced":
            of_pool.unpaced[operator] += amount * may_run
        elif what == "open":
            of_pool.open_sources += amount * may_run
        elif what in ROW_STATES:
            self.rows[operator, pool, what] += amount
            of_pool.rows += amount * (may_run and what == "left")
        else:
            self.shards[operator, pool, what] += amount
            of_pool.shards += amount * may_run
            of_pool.shards_in_flight += amount * (may_run and what in ("queued", "running"))
            of_pool.shards_running += amount * (what == "running")
