"""The ledger and its model in lockstep: each does a step, and they must answer alike."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest import mock

from hypothesis.stateful import RuleBasedStateMachine

from batchmill.errors import Conflict, NotFound, StaleToken
from batchmill.jobs.completion import Completion, DeadLimit, ShardRest
from batchmill.jobs.cost import Parts
from batchmill.jobs.job import JobState
from batchmill.jobs.retry import DeadLetter, Lost, Split, decide
from batchmill.jobs.status import NO_TOKENS, TokenSums
from batchmill.ledger import JobRecord, Ledger
from support.ledger_model import Model
from support.ledger_model_jobs import JOB_FIELDS, LEASE_MS, STAGE_FIELDS, Job, Piece, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from batchmill.jobs.shard import Shard, ShardId, ShardRef

DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  local read = {hash = {'HGETALL', key}, string = {'GET', key}, set = {'SMEMBERS', key},
                list = {'LRANGE', key, 0, -1}, zset = {'ZRANGE', key, 0, -1, 'WITHSCORES'},
                stream = {'XRANGE', key, '-', '+'}}
  found[#found + 1] = {key, kind, redis.call(unpack(read[kind]))}
end
return found
"""
UNMODELLED = re.compile(
    "^(leader|leader:epoch|jobs|jobs:unreported|idempotency:.*|index:.*)$|:(input|inline:\\d+|log)$"
)
PRICES_NANO = (3_600_000_000, 799_999_999, 41)
_numbers = count()


@dataclass(frozen=True)
class Attempt:
    """What a worker holds, or once held."""

    shard: Shard
    holder: str

    @property
    def ref(self) -> ShardRef:
        return self.shard.ref


class Lockstep(RuleBasedStateMachine):
    """What steps are made of."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.redis: Any = client
        self.prefix = f"model{next(_numbers)}:"
        self.model = Model()
        self.ledger = Ledger(client, self.prefix, now_ms=self.model.now)
        self.records: dict[str, list[JobRecord]] = {}  # of each job as they were read, the latest last
        self.seen: dict[tuple[str, int, str], list[ShardRef]] = {}  # what a role had read when it was cut short
        self.messages: list[ShardRef] = []  # in the broker
        self.published: list[ShardRef] = []  # ever
        self.attempts: list[Attempt] = []  # ever
        self.serial = count()
        self.drops = 0  # of the model, as the last check saw them

    def job(self, which: int) -> Job:
        return list(self.model.jobs.values())[which % len(self.model.jobs)]

    def stage(self, job: Job, which: int) -> Stage:
        return job.stages[which % len(job.stages)]

    def record(self, job: Job) -> JobRecord:
        if job.state:
            self.records[job.id].append(self.ledger.jobs.read(job.id))
        return self.records[job.id][-1]

    def attempt(self, which: int, *, late: bool) -> Attempt | None:
        """One of the attempts that run, or, late, of those that ran once."""
        found = [attempt for attempt in self.attempts if late != bool(self.model.running(attempt.ref))]
        return found[which % len(found)] if found else None

    def live(self, job: Job, role: str, *, late: bool) -> dict[int, list[ShardRef]]:
        """By stage what the role saw as live when it was cut short, or what is live now."""
        now = {stage.number: self.ledger.jobs._live_attempts(job.id, stage.number) for stage in job.stages}
        return now | {
            number: refs for (job_id, number, by), refs in self.seen.items() if late and (job_id, by) == (job.id, role)
        }

    def seeing(self, live: dict[int, list[ShardRef]]) -> Any:
        """Inside, the ledger takes these for live."""
        return mock.patch.object(self.ledger.jobs, "_live_attempts", side_effect=lambda _, stage: live[stage])

    def queue(self, job: Job, stage: Stage, shard_id: ShardId, epoch: int) -> ShardRef | None:
        refs, record = [], self.record(job)

        def queue() -> str:
            refs.append(self.ledger.shards.queue(record.id, record.stages[stage.number], shard_id, epoch))
            return said(refs[0] is not None, "nothing")

        self.check(self.model.queue(job, stage, shard_id, epoch), queue)
        self.published += [ref for ref in refs if ref]
        return refs[0]

    def claim(self, ref: ShardRef, holder: str) -> bool:
        claims = []
        price_nano, sharers = PRICES_NANO[next(self.serial) % len(PRICES_NANO)], 1 + next(self.serial) % 3

        def claim() -> str:
            taken = self.ledger.shards.claim(
                ref, "default", holder, LEASE_MS, with_job=False, price_nano=price_nano, sharers=sharers
            )
            claims.append(taken)
            return said(taken is not None, "stopped")

        word = self.model.claim(ref, holder, price_nano, sharers)
        self.check(word, lambda: answer(claim))
        self.attempts += [Attempt(claim.shard, holder) for claim in claims if claim]
        return word == "ok"

    def speculate_on(self, ref: ShardRef, epoch: int) -> ShardRef | None:
        refs = []

        def speculate() -> str:
            refs.append(self.ledger.stragglers.speculate(ref, "default", epoch))
            return said(refs[0] is not None, "nothing")

        self.check(self.model.speculate(ref, epoch), speculate)
        self.published += [second for second in refs if second]
        return refs[0]

    def expire_attempt(self, ref: ShardRef, epoch: int, delay_ms: int = 0) -> str:
        word = self.model.expire_attempt(ref, epoch, delay_ms)
        self.check(word, lambda: self.ledger.shards.expire_attempt(ref, epoch, delay_s=delay_ms / 1000))
        return word

    def split(self, shard: Shard, epoch: int) -> None:
        self.check(self.model.split(shard.ref, epoch), lambda: self.ledger.shards.split(shard, epoch))

    def take_back(self, ref: ShardRef, epoch: int, cut: int) -> None:
        shard = self.ledger.shards.read(ref)
        assert shard is not None
        if shard.token != ref.token:
            self.expire_attempt(ref, epoch)
            return
        match decide(shard, Lost(), self.model.stage(ref).spec.retry, random.Random(0)):
            case Split():
                self.split(shard, epoch)
            case DeadLetter():
                self.bury(shard, epoch, cut)
            case _:
                self.expire_attempt(ref, epoch)

    def bury(self, shard: Shard, epoch: int, cut: int) -> None:
        """As `LostRowSettler` does, cut short after `cut` steps."""
        job, stage = self.model.jobs[shard.job_id], self.model.stage(shard.ref)
        if self.expire_attempt(shard.ref, epoch, 3 * LEASE_MS) != "ok" or cut == 1:
            return
        ref = self.queue(job, stage, shard.shard_id, epoch)
        if ref and cut > 2 and self.claim(ref, f"undertaker {next(self.serial)}") and cut > 3:
            self.commit_attempt(self.attempts[-1].shard, 1, b"")

    def commit_attempt(
        self, shard: Shard, dead: int, inline: bytes, fan_out: int | None = None, first_rows: int = 0
    ) -> None:
        """fan_out: results of a row; 0: all are filtered, None: one each. first_rows: only these; 0: all."""
        limit = DeadLimit.of(self.model.stage(shard.ref).spec)
        rest = None
        if 0 < first_rows < shard.rows:
            part, left = shard.part_and_rest(first_rows)
            rest, dead = ShardRest(left), min(dead, part.rows)
        counted = (("ValueError", dead),) if dead else ()
        rows = (first_rows if rest else shard.rows) - dead
        completion = Completion(
            rows,
            dead,
            10 * rows * (1 if fan_out is None else fan_out),
            inline=inline,
            dead_by_type=counted,
            results=None if fan_out is None else rows * fan_out,
            rows_filtered=rows if fan_out == 0 else 0,
            tokens=TokenSums(prompt=7 * rows, cached=rows, generated=3 * rows) if fan_out is None else NO_TOKENS,
            rest=rest,
        )
        used = self.used()
        word = self.model.commit(shard.ref, completion, used)

        def commit() -> str:
            return answer(lambda: said(self.ledger.shards.commit(shard.ref, completion, limit, used), "no room"))

        self.check("ok" if word == "again" else word, commit, changes=word == "ok")

    def used(self) -> Parts:
        """What the time of the next attempt went into: nothing twice, so that no part is taken for another."""
        number = next(self.serial)
        return Parts(2_000_003 * number, 17 * number, 5 * (number % 2), 1_000 * number, 3 * number)

    def check(self, word: str, call: Callable[[], str], *, changes: bool | None = None) -> None:
        """The ledger gives the model's answer, and unless that is to change something, nothing changes.

        "ok" does, and so does what drops a straggler, or lets a shard wait for another worker."""
        before, dropped = self.dump(), self.model.drops > self.drops
        self.drops = self.model.drops
        said_so = call()
        assert said_so == word, f"the ledger answers {said_so!r}, the model {word!r}"
        if not (dropped or (word == "ok" if changes is None else changes)):
            assert self.dump() == before, f"{word!r} changed something"

    def dump(self) -> dict[str, Any]:
        """Every key of this ledger."""
        found = self.redis.eval(DUMP, 0, self.prefix)
        return {key.decode(): VALUES[kind](value) for key, kind, value in found}


def pairs(flat: list[bytes]) -> dict[str, str]:
    texts = [text.decode() for text in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


VALUES: dict[bytes, Callable[[Any], Any]] = {
    b"hash": pairs,
    b"zset": lambda flat: {member: int(score) for member, score in pairs(flat).items()},
    b"set": lambda members: {member.decode() for member in members},
    b"list": lambda items: [item.decode() for item in items],
    b"string": bytes.decode,
    b"stream": list,
}


def comparable(dump: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What the model answers for, as the model puts it."""
    named = {key.removeprefix(prefix): value for key, value in dump.items()}
    return {key: _comparable(key, value) for key, value in named.items() if not UNMODELLED.search(key)}


def _comparable(key: str, value: Any) -> Any:
    if "spec" in value:
        return {name: value.get(name) or "0" for name in JOB_FIELDS}
    if key.startswith("tenant:") or key == "jobs:live":
        return set(value)
    if ":stage:" in key:
        return {name: value.get(name) or "0" for name in STAGE_FIELDS}
    if ":shard:" in key:
        first_row, _, skip, *_ = json.loads(value["plan"])
        told = value | {"first_row": str(first_row), "skip": str(skip)}
        return {name: told.get(name, "") for name in Piece(0, 0).fields()}
    return value


def said(yes: bool, no: str) -> str:  # an answer, not an option
    return "ok" if yes else no


def answer(call: Callable[[], object]) -> str:
    """The word for how a call ended."""
    try:
        word = call()
    except StaleToken:
        return "stale"
    except (Conflict, NotFound):
        return "refused"
    return word if isinstance(word, str) and not isinstance(word, JobState) else "ok"
