"""What must hold of a simulated chain, after each step and at its end."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from batchmill.ledger.formats.encodings import FreedParts, StageCursor
from batchmill.stage_results import settled_shards
from support.chain_truth import Path, made_of
from support.index_truth import index_of
from support.ledger_lockstep import DUMP, VALUES

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import JobRecord
    from batchmill.ledger.formats.settlement import Settled
    from support.chain_sim import ChainSim

INDEXES_EVERY = 10  # steps
DELETED_AFTER_S = 60.0
UNFENCED_FIELDS = ("noted", "counted", "plannings", "indexed")
"""The log, the generation of the sums, a count that guards planning, and indexes, as retries become due."""
UNFENCED = re.compile(r":log$|:index:|:pool\.|:pool\d\.")


class ChainCheck:
    """Follows a simulation with counts of its own."""

    def __init__(self, sim: ChainSim) -> None:
        self._sim = sim
        self._last = len(sim.setup.kinds) - 1
        self._made: Counter[int] = Counter()  # bytes by stage
        self._largest: Counter[int] = Counter()  # bytes of a shard by stage
        self._freed: dict[int, str] = {}  # by stage, as it was read last
        self._turn: dict[str, int] = {}  # by pool: the stage of which a shard was queued last, in this turn
        self._role = ""  # whose turn it is

    # -- what happens

    def begin_turn(self, role: str) -> None:
        """A role begins its step."""
        self._turn, self._role = {}, role

    def on_committed(self, stage: int, nbytes: int) -> None:
        """A worker has committed results of a stage."""
        self._made[stage] += nbytes
        self._largest[stage] = max(self._largest[stage], nbytes)

    def on_published(self, ref: ShardRef) -> None:
        """A shard was queued: it was one of the latest stage that may run, and its buffer had room.

        The recoverer publishes what the leader before it has queued, in any order.
        """
        if self._role != "dispatcher":
            return
        pool = self._sim.setup.pools[ref.stage]
        assert ref.stage <= self._turn.get(pool, ref.stage), f"{ref} went before a later stage"
        self._turn[pool] = ref.stage
        if ref.stage == self._last:
            return
        record = self._sim.record()
        stage, following = record.stages[ref.stage], record.stages[ref.stage + 1]
        is_alone = stage.buffered == 0 and stage.shards_in_flight == 1
        is_next = following.joins or StageCursor.parse(following.cursor).shard == ref.shard_id[0]
        is_awaited = following.shards_live == 0 and is_next
        has_room = stage.buffered < self._sim.setup.buffer_bytes
        assert has_room or is_alone or is_awaited, f"{ref} has no room in the buffer"

    # -- after each step

    def after_a_step(self, record: JobRecord, step: int) -> None:
        """The buffers hold what was made and not freed, and nothing is freed that is still to be read."""
        for number, stage in enumerate(record.stages[:-1]):
            assert stage.bytes_out == self._made[number], f"stage {number} made {self._made[number]} bytes"
            beyond = self._largest[number] * 3 // 2  # the shard that is awaited, and what estimates miss
            assert 0 <= stage.buffered <= self._sim.setup.buffer_bytes + beyond, f"stage {number} is over its buffer"
            if stage.freed != self._freed.get(number, ""):
                self._freed[number] = stage.freed
                self._require_freed_in_order(record, number)
        if step % INDEXES_EVERY == 0 and self._sim.leader.has_rebuilt_indexes:
            self._require_indexes()

    def _require_freed_in_order(self, record: JobRecord, number: int) -> None:
        freed = FreedParts.parse(record.stages[number].freed)
        every = sorted(self.settled(record, number), key=lambda one: one.shard_id)
        own = [one for one in every if one.shard_id[0] == freed.shard]
        parts = [*(one for one in every if one.shard_id[0] < freed.shard), *own[: freed.parts]]
        assert sum(part.nbytes for part in parts) == record.stages[number].bytes_freed
        read = 0
        for shard in settled_shards(self._sim.ledger, record, number + 1):
            if not shard.is_complete:
                break
            read += sum(one.rows + one.rows_dead for one in shard.parts)
        assert sum(part.results for part in parts) <= read, "freed before it was read"

    def settled(self, record: JobRecord, stage: int) -> list[Settled]:
        """The settled parts of a stage, in input order."""
        return [part for shard in settled_shards(self._sim.ledger, record, stage) for part in shard.parts]

    def _require_indexes(self) -> None:
        due, found = index_of(self.dump(), self._sim.ledger._store.keys.prefix, self._sim.ledger._store.now_ms)
        assert found == due, f"indexes differ: {differences(due, found)}"

    def dump(self) -> dict[str, Any]:
        """Every key of the ledger."""
        found = self._sim.ledger._store.redis.eval(DUMP, 0, self._sim.ledger._store.keys.prefix)
        return {key.decode(): VALUES[kind](value) for key, kind, value in found}

    def fenced(self) -> dict[str, Any]:
        """What only the leader may change. A message that is published again, and its note in the log, do no harm."""
        found = {key: value for key, value in self.dump().items() if not UNFENCED.search(key)}
        for value in found.values():
            if isinstance(value, dict):
                for name in UNFENCED_FIELDS:
                    value.pop(name, None)
        return found

    # -- at the end

    def after_the_end(self) -> None:
        """Every row is in its place, once, at every stage; nothing is left of what was between them."""
        record = self._sim.record()
        rows: list[Path] = [(row,) for row in range(self._sim.setup.rows)]
        for number in range(self._last + 1):
            rows = self._require_stage(record, number, rows)
        assert all(left < right for left, right in pairwise(rows)), "not in the order of paths"
        self._sim.leader.recoverer.step(self._sim.leader.epoch)
        self._require_indexes()
        self._require_nothing_between()

    def _require_stage(self, record: JobRecord, number: int, rows: list[Path]) -> list[Path]:
        """The results of a stage, if it made of all `rows` what it must."""
        kind, stage, at = self._sim.setup.kinds[number], record.stages[number], 0
        results: list[Path] = []
        parts = self.settled(record, number)
        if stage.joins:  # its rows have their numbers in the order of commits
            numbered = sorted(parts, key=lambda one: (one.first_row, one.rows + one.rows_dead))
            assert all(
                left.first_row + left.rows + left.rows_dead == right.first_row for left, right in pairwise(numbered)
            )
        for part in parts:
            count = part.rows + part.rows_dead
            assert stage.joins or part.first_row == at, f"row {at} of stage {number} is lost or doubled"
            made = made_of(kind, number, rows[at : at + count])
            assert (part.rows, part.rows_dead, part.results) == (made.rows, made.rows_dead, len(made.results))
            key = (number, part.shard_id, part.token)
            assert self._sim.parts.paths.get(key, made.results) == made.results
            at += count
            results += made.results
        assert at == len(rows) == stage.rows_planned == stage.rows_done + stage.rows_dead
        counts = (stage.shards_live, stage.shards_queued, stage.shards_running)
        assert counts == (0, 0, 0)
        assert stage.rows_dead == made_of(kind, number, rows).rows_dead
        assert stage.rows_filtered == made_of(kind, number, rows).rows_filtered
        if number != self._last:
            assert stage.rows_out == len(results)
        return results

    def _require_nothing_between(self) -> None:
        sim = self._sim
        for changes in (True, False):
            if changes and sim.rng.random() < 0.5:
                sim.change_leader()
            for ledger in (sim.ledger, sim._led):
                ledger._store.now_ms += int(DELETED_AFTER_S * 1000)
            sim.clock.now_s += DELETED_AFTER_S
            sim.leader.keeper.step(sim.leader.epoch)
        record = sim.record()
        committed = {(self._last, one.shard_id, one.token) for one in self.settled(record, self._last)}
        between = {key for key in sim.parts.paths if key[0] != self._last}
        assert not between, "results between stages are left"
        assert committed >= {key for key in committed if key in sim.parts.paths}


def differences(due: dict[str, Any], found: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of the indexes differs, as it must be and as it is."""
    names = due.keys() | found.keys()
    return {name: (due.get(name), found.get(name)) for name in names if due.get(name) != found.get(name)}
