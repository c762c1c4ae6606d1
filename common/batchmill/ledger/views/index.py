"""The indexes that scripts keep of what there is to do, read so that a step costs what it can do (`_indexes.lua`).

Every method reads a bounded number of entries in one round trip or two. Stages take turns: those of one
tenant, operator and set of parameters share a turn, and a read takes as much from each turn, so that many jobs of one
turn hide no others.
"""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from batchmill.ledger.formats.encodings import parse_stage_key
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from batchmill.ledger.formats.record import StageKey
    from batchmill.ledger.scripting.connection import Store

MAX_TURNS = 256
"""At most this many turns of a pool are read at once; of more, a random choice, another one each time."""
MORE_OF_A_TURN = 16
"""More stages of a turn are read than could be queued: to choose from by deadline, and for those that are set aside."""
LIVE_WEIGHT = 1000  # as in `_indexes.lua`
REINDEXED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Window:
    """How many shards of a pool may be in flight, and of which operators its workers run any."""

    shards: int
    operators: Collection[str]


@dataclass(frozen=True, slots=True)
class Due:
    """What there is to queue. Stages may have changed since: what a role then writes is checked anyway."""

    now_ms: int  # by the server's clock
    unqueue: list[StageKey] = field(default_factory=list)  # of paused jobs, with queued shards
    later: list[StageKey] = field(default_factory=list)  # with a retry that is due, and not ready yet
    in_flight: dict[str, dict[StageKey, int]] = field(default_factory=dict)  # by pool: shards queued or running
    ready: dict[str, list[StageKey]] = field(default_factory=dict)  # by pool with room: with a shard to queue now


class IndexLedger:
    """Reads the indexes. Entries may name jobs that have changed since: what a role then writes is checked anyway."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.keys.index()

    def to_plan(self, horizons: Mapping[str, int], limit: int) -> list[StageKey]:
        """At most `limit` stages of each of these pools to plan.

        horizons: by pool, the live shards at which a stage has enough. In turns; in a turn those with the fewest live
        shards first, then by priority, then the oldest.
        """
        turns = self._turns_to_plan(list(horizons))
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool, turn in turns:
                most = f"({horizons[pool] * LIVE_WEIGHT - 100}"
                pipe.zrangebyscore(f"{self._index}plan|{pool}|{turn}", "-inf", most, start=0, num=limit)
            found = pipe.execute()
        by_pool: dict[str, list[list[StageKey]]] = {}
        for (pool, _), members in zip(turns, found, strict=True):
            by_pool.setdefault(pool, []).append(list(map(parse_stage_key, members)))
        return [key for lists in by_pool.values() for key in _mixed(lists, limit)]

    def pools_to_plan(self, limit: int) -> list[str]:
        """At most `limit` pools with stages to plan, chosen at random."""
        with redis_errors():
            return [pool.decode() for pool in self._store.redis.srandmember(f"{self._index}plan", limit)]

    def due(self, windows: Mapping[str, Window], limit: int) -> Due:
        """What there is to queue in these pools; stages whose retries are due by now are made ready first.

        In turns; in a turn by priority and by how long the stage has waited. limit: stages of each kind and pool.
        """
        due = self._due(windows, limit)
        if due.later:
            self.rebuild({job_id for job_id, _ in due.later})
            due = self._due(windows, limit)
        return due

    def _due(self, windows: Mapping[str, Window], limit: int) -> Due:
        reply = calls.due(
            self._store,
            limit=limit,
            max_turns=MAX_TURNS,
            more_of_a_turn=MORE_OF_A_TURN,
            pools=[
                calls.DuePool(pool, window.shards, f" {' '.join(sorted(window.operators))} ")
                for pool, window in windows.items()
            ],
        )
        due = Due(reply.now)
        turns: dict[str, dict[str, list[StageKey]]] = {}
        for entry in reply.entries:
            kind, *rest = entry.split("|")
            key = (rest[-2], int(rest[-1]))
            match kind:
                case "unqueue":
                    due.unqueue.append(key)
                case "later":
                    due.later.append(key)
                case "flight":
                    due.in_flight.setdefault(rest[0], {})[key] = int(rest[1])
                case _:
                    turns.setdefault(rest[0], {}).setdefault(rest[1], []).append(key)
        due.ready.update((pool, _mixed(list(those.values()), limit)) for pool, those in turns.items())
        return due

    def in_flight(self) -> dict[str, list[StageKey]]:
        """By pool, the stages with shards that are queued or running; pools without any are left out."""
        with redis_errors():
            pools = sorted(pool.decode() for pool in self._store.redis.smembers(f"{self._index}flight"))
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool in pools:
                pipe.zrange(f"{self._index}flight|{pool}", 0, -1)
            found = pipe.execute()
        return {pool: sorted(map(parse_stage_key, members)) for pool, members in zip(pools, found, strict=True)}

    def to_free(self, limit: int) -> list[StageKey]:
        """At most `limit` stages with parts that the next stage may have settled."""
        with redis_errors():
            return sorted(map(parse_stage_key, self._store.redis.srandmember(f"{self._index}free", limit)))

    def to_finish(self, now_ms: int, limit: int, latest_ms: int) -> list[str]:
        """At most `limit` jobs for which a final state is due, those that wait for it longest first.

        latest_ms: until when one may be deferred; one that is deferred for longer was so before the clock went back,
        and is due.
        """
        found = self._until("finish", now_ms, limit)
        return [*found, *self._after("finish", latest_ms, limit - len(found))]

    def defer_finish(self, job_ids: Sequence[str], until_ms: int) -> None:
        """Leave jobs out of `to_finish` for a time, unless they are finished by then."""
        if job_ids:
            with redis_errors():
                self._store.redis.zadd(f"{self._index}finish", dict.fromkeys(job_ids, until_ms), xx=True)

    def overdue(self, now_ms: int, limit: int) -> list[str]:
        """At most `limit` jobs that do not stop yet although their deadline has passed."""
        return self._until("deadlines", now_ms, limit)

    def with_deadlines(self, limit: int) -> list[str]:
        """At most `limit` jobs that have a deadline and do not stop yet, those with the nearest."""
        with redis_errors():
            return [job_id.decode() for job_id in self._store.redis.zrange(f"{self._index}deadlines", 0, limit - 1)]

    def late_retries(self, after_ms: int, limit: int) -> list[StageKey]:
        """At most `limit` stages whose first retry is due after that time, the latest first."""
        return [parse_stage_key(member.encode()) for member in self._after("later", after_ms, limit)]

    def rebuild(self, job_ids: Iterable[str]) -> None:
        """Give these jobs the entries that they are due, whatever entries they have."""
        jobs = list(job_ids)
        for start in range(0, len(jobs), REINDEXED_AT_ONCE):
            calls.reindex(self._store, jobs=jobs[start : start + REINDEXED_AT_ONCE])

    def rebuild_all(self, job_ids: Iterable[str]) -> None:
        """Rebuild the entries of all live jobs, and count anew what there is to do."""
        calls.recount(self._store, generation=secrets.token_hex(4))
        self.rebuild(job_ids)

    def live_jobs(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """The next of the live jobs, about `count` of them, and the cursor for those after them; 0 begins and ends."""
        with redis_errors():
            after, found = self._store.redis.zscan(self._store.keys.live_jobs(), cursor, count=count)
        return int(after), sorted(job_id.decode() for job_id, _ in found)

    def _until(self, name: str, now_ms: int, limit: int) -> list[str]:
        with redis_errors():
            found = self._store.redis.zrangebyscore(f"{self._index}{name}", "-inf", now_ms, start=0, num=limit)
        return [member.decode() for member in found]

    def _after(self, name: str, after_ms: int, limit: int) -> list[str]:
        with redis_errors():
            found = self._store.redis.zrevrangebyscore(
                f"{self._index}{name}", "+inf", f"({after_ms}", start=0, num=limit
            )
        return [member.decode() for member in found]

    def _turns_to_plan(self, pools: Sequence[str]) -> list[tuple[str, str]]:
        """The turns of these pools, as (pool, turn)."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool in pools:
                pipe.srandmember(f"{self._index}plan|{pool}", MAX_TURNS)
            found = pipe.execute()
        return [(pool, turn.decode()) for pool, turns in zip(pools, found, strict=True) for turn in turns]


def _mixed(lists: Sequence[Sequence[StageKey]], limit: int) -> list[StageKey]:
    """At most `limit` stages: the first of each turn, the second of each, …

    lists: of each turn, the most urgent first. If not all have room, half of it is for others at random: what is most
    urgent may have to wait for something else, such as its tenant's limits, for as long as it likes.
    """
    if len(lists) > limit:
        urgent, others = lists[: limit // 2], lists[limit // 2 :]
        lists = [*urgent, *random.sample(others, limit - len(urgent))]
    return [key for row in zip_longest(*lists) for key in row if key is not None][:limit]
