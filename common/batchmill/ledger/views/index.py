"""The indexes that scripts keep of what there is to do, read so that a step costs what it can do (`_indexes.lua`).

Every method reads a bounded number of entries in a constant number of round trips. Stages take turns: those of one
tenant, operator and set of parameters share a turn, and a read takes as much from each turn, so that many jobs of one
turn hide no others.
"""

from __future__ import annotations

from itertools import chain, zip_longest
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
        turns = self._turns("plan", list(horizons))
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool, turn in turns:
                most = f"({horizons[pool] * LIVE_WEIGHT - 100}"
                pipe.zrangebyscore(f"{self._index}plan|{pool}|{turn}", "-inf", most, start=0, num=limit)
            found = pipe.execute()
        return list(chain.from_iterable(_in_turns(turns, found, limit).values()))

    def pools_to_plan(self, limit: int) -> list[str]:
        """At most `limit` pools with stages to plan, chosen at random."""
        with redis_errors():
            return [pool.decode() for pool in self._store.redis.srandmember(f"{self._index}plan", limit)]

    def ready(
        self, pools: Mapping[str, Collection[str]], limit: int, free: Mapping[str, int]
    ) -> dict[str, list[StageKey]]:
        """By pool, at most `limit` stages with a shard that may be queued now.

        pools: the operators that each can run. free: how many shards each can take; that many stages are read of each
        turn, and `MORE_OF_A_TURN`. In turns; in a turn by priority and by how long the stage has waited.
        """
        turns = [
            (pool, turn) for pool, turn in self._turns("ready", list(pools)) if turn.partition(" ")[0] in pools[pool]
        ]
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool, turn in turns:
                pipe.zrange(f"{self._index}ready|{pool}|{turn}", 0, min(limit, free[pool] + MORE_OF_A_TURN) - 1)
            found = pipe.execute()
        return _in_turns(turns, found, limit)

    def in_flight(self) -> dict[str, list[StageKey]]:
        """By pool, the stages with shards that are queued or running; pools without any are left out."""
        with redis_errors():
            pools = sorted(pool.decode() for pool in self._store.redis.smembers(f"{self._index}flight"))
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool in pools:
                pipe.smembers(f"{self._index}flight|{pool}")
            found = pipe.execute()
        return {pool: sorted(map(parse_stage_key, members)) for pool, members in zip(pools, found, strict=True)}

    def to_unqueue(self, limit: int) -> list[StageKey]:
        """At most `limit` stages of paused jobs with queued shards."""
        with redis_errors():
            return sorted(map(parse_stage_key, self._store.redis.srandmember(f"{self._index}unqueue", limit)))

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

    def admit_retries(self, now_ms: int, limit: int) -> int:
        """Make stages whose retries are due ready; returns how many they were, at most `limit`."""
        found = self._until("later", now_ms, limit)
        self.rebuild({parse_stage_key(member.encode())[0] for member in found})
        return len(found)

    def late_retries(self, after_ms: int, limit: int) -> list[StageKey]:
        """At most `limit` stages whose first retry is due after that time, the latest first."""
        return [parse_stage_key(member.encode()) for member in self._after("later", after_ms, limit)]

    def rebuild(self, job_ids: Iterable[str]) -> None:
        """Give these jobs the entries that they are due, whatever entries they have."""
        jobs = list(job_ids)
        for start in range(0, len(jobs), REINDEXED_AT_ONCE):
            calls.reindex(self._store, jobs=jobs[start : start + REINDEXED_AT_ONCE])

    def live_jobs(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """The next of the live jobs, about `count` of them, and the cursor for those after them; 0 begins and ends."""
        with redis_errors():
            after, ids = self._store.redis.sscan(self._store.keys.live_jobs(), cursor, count=count)
        return int(after), sorted(job_id.decode() for job_id in ids)

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

    def _turns(self, kind: str, pools: Sequence[str]) -> list[tuple[str, str]]:
        """The turns of these pools, as (pool, turn)."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool in pools:
                pipe.srandmember(f"{self._index}{kind}|{pool}", MAX_TURNS)
            found = pipe.execute()
        return [(pool, turn.decode()) for pool, turns in zip(pools, found, strict=True) for turn in turns]


def _in_turns(
    turns: Sequence[tuple[str, str]], found: Sequence[Sequence[bytes]], limit: int
) -> dict[str, list[StageKey]]:
    """By pool, at most `limit` of the stages that were found of each turn: the first of each, the second of each, …"""
    by_pool: dict[str, list[Sequence[bytes]]] = {}
    for (pool, _), members in zip(turns, found, strict=True):
        by_pool.setdefault(pool, []).append(members)
    mixed = {
        pool: [member for row in zip_longest(*lists) for member in row if member is not None][:limit]
        for pool, lists in by_pool.items()
    }
    return {pool: list(map(parse_stage_key, members)) for pool, members in mixed.items()}
