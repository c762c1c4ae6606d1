"""Redis streams as the source of jobs: cut, planned and read by id, on a real Valkey."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import StreamUnavailable
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.jobs.streams.offsets import StreamOffsets
from batchmill.jobs.streams.source import RedisStream
from batchmill.settings import CoordinatorSettings
from batchmill.sources.base import InputSplit, NotYet, Survey
from batchmill.sources.type_names import types_of
from batchmill.streams.base import BAD_MESSAGE, LOST_MESSAGE, Head, Message
from batchmill.streams.messages import rows_of
from batchmill.streams.opening import open_stream
from batchmill.streams.redis_stream import BEGINNING, RedisStreamReader
from batchmill_coordinator.results.dead_rows import DeadRowStore
from batchmill_coordinator.results.stream_retention import StreamRetention
from batchmill_coordinator.roles.stream_keeper import StreamKeeper
from batchmill_coordinator.status.status import stream_status
from support.ledger_steps import submit
from support.records import spec_of
from support.stream_reading import JOB, Reading
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sources.base import EndlessSource


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))


@pytest.fixture
def key(prefix: str) -> str:
    """The key of a stream that no other test has."""
    return f"events-{prefix}stream"


def add(client: redis.Redis, key: str, first: int, count: int) -> list[str]:
    added: list[Any] = [client.xadd(key, {"n": str(first + place)}) for place in range(count)]
    return [entry.decode() for entry in added]


def test_entries_are_planned_once_each_in_their_order_while_they_come(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading, added = Reading(ledger, settings, RedisStream(key)), 0
    for count in (0, 1, 70, 0, 300):
        add(redis_client, key, added, count)
        added += count
        until(partial(_is_planned, reading, added), "the planning of what was added")
    record = ledger.jobs.read(JOB)
    assert (record.first.planned, record.first.rows_total) == (False, None)
    assert [row["n"] for row in reading.planned_rows()] == [str(n) for n in range(added)]


def _is_planned(reading: Reading, rows: int) -> bool:
    return _after_step(reading) == rows


def _after_step(reading: Reading) -> int:
    reading.step()
    return reading.ledger.jobs.read(JOB).first.rows_planned


def test_another_leader_continues_behind_the_last_planned_entry(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    second = reading.new_planner()
    add(redis_client, key, 0, 10)
    reading.step()
    add(redis_client, key, 10, 5)
    second.step(reading.epoch)
    add(redis_client, key, 15, 5)
    until(lambda: _after_step(reading) == 20, "the planning by the first one again")
    assert [row["n"] for row in reading.planned_rows()] == [str(n) for n in range(20)]


def test_the_planner_is_woken_by_an_entry(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading, woken = Reading(ledger, settings, RedisStream(key)), threading.Event()
    planner = reading.new_planner(woken.set)
    planner.step(reading.epoch)
    add(redis_client, key, 0, 1)
    assert woken.wait(30)
    planner.step(reading.epoch)
    assert ledger.jobs.read(JOB).first.rows_planned == 1


def test_rows_wait_for_others_only_while_no_slot_is_free(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key, max_age_s=3600))
    splitter = reading.open().splitter("")
    add(redis_client, key, 0, 5)
    splitter.is_awaited = False
    assert splitter.next_split(100, 10**6) == NotYet()
    assert splitter.holds_for_s is not None
    assert splitter.holds_for_s > 3000
    full = splitter.next_split(5, 10**6)
    assert isinstance(full, InputSplit)
    assert full.rows == 5
    add(redis_client, key, 5, 2)
    assert splitter.next_split(100, 10**6) == NotYet()
    splitter.is_awaited = True
    at_once = splitter.next_split(100, 10**6)
    assert isinstance(at_once, InputSplit)
    assert at_once.rows == 2


def test_entries_that_were_deleted_before_they_were_planned_are_counted(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    add(redis_client, key, 0, 3)
    reading.step()
    add(redis_client, key, 3, 10)
    redis_client.xtrim(key, maxlen=4, approximate=False)
    until(lambda: _after_step(reading) == 7, "the planning of what is left")
    offsets = StreamOffsets.parse(ledger.jobs.read(JOB).first.cursor)
    assert (offsets.rows_lost, offsets.partitions[""].position) == (6, 13)
    redis_client.xtrim(key, maxlen=0, approximate=False)
    add(redis_client, key, 13, 2)
    redis_client.xtrim(key, maxlen=0, approximate=False)
    until(lambda: _lost_after_step(reading) == 8, "the count of entries of which none is left")


def test_newer_entries_that_were_deleted_are_counted_while_an_older_one_is_left(
    redis_client: redis.Redis, key: str
) -> None:
    reader = RedisStreamReader(redis_client, key, RedisStream(key, trim=False), {})
    first, *newer = add(redis_client, key, 0, 3)
    redis_client.xdel(key, *newer)
    after = Head(first, 1)
    found = reader.fetch("", after, 10, 1000)
    assert found is not None
    assert (found.last, found.rows, found.position, found.lost) == (newer[-1], 0, 3, 2)
    assert reader.lag("", Head(found.last, found.position)) == 0


def _lost_after_step(reading: Reading) -> int:
    reading.step()
    return StreamOffsets.parse(reading.ledger.jobs.read(JOB).first.cursor).rows_lost


def test_entries_that_were_deleted_before_a_worker_read_them_are_bad_rows(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    add(redis_client, key, 0, 5)
    reading.step()
    redis_client.xtrim(key, maxlen=2, approximate=False)
    shard = ledger.shards.read(ShardRef(JOB, 0, ShardId((0,)), 0))
    assert shard is not None
    found = reading.open().read_with_faults(shard.slices)
    assert found.table.column("n").to_pylist() == [None, None, None, "3", "4"]
    assert [(one.place, one.error_type) for one in found.bad] == [
        (0, LOST_MESSAGE),
        (1, LOST_MESSAGE),
        (2, LOST_MESSAGE),
    ]


def test_a_message_that_is_no_row_is_a_bad_row_and_the_others_are_read(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    source = RedisStream(key, json_field="data", types={"id": "int64"})
    reading = Reading(ledger, settings, source)
    good = [{"id": 1, "text": "a"}, {"id": 2, "text": "b\n", "more": [1.5]}]
    for data in (json.dumps(good[0]), "{broken", "[1]", '{"id": "x", "text": "c"}', json.dumps(good[1])):
        redis_client.xadd(key, {"data": data})
    redis_client.xadd(key, {"other": "field"})
    reading.step()
    shard = ledger.shards.read(ShardRef(JOB, 0, ShardId((0,)), 0))
    assert shard is not None
    found = reading.open().read_with_faults(shard.slices)
    assert [one.place for one in found.bad] == [1, 2, 3, 5]
    assert {one.error_type for one in found.bad} == {BAD_MESSAGE}
    rows = found.table.to_pylist()
    assert [rows[0], rows[4]] == [{**good[0], "more": None}, good[1]]


def test_only_what_is_settled_by_all_jobs_is_deleted_from_the_stream(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key, max_rows=2))
    ids = add(redis_client, key, 0, 6)
    reading.step()
    assert ledger.jobs.read(JOB).first.shards_planned == 3
    reading.keeper.step(reading.epoch)
    assert redis_client.xlen(key) == 6
    reading.settle(1)
    reading.keeper.step(reading.epoch)
    assert redis_client.xlen(key) == 6, "what is before the settled shard is not settled"
    reading.settle(0)
    reading.keeper.step(reading.epoch)
    assert [entry for entry, _ in redis_client.xrange(key) or ()] == [one.encode() for one in ids[4:]]
    reading.settle(2)
    submit(ledger, "job-2", spec=spec_of(operator="echo", source=reading.source))
    reading.keeper.step(reading.epoch)
    assert redis_client.xlen(key) == 2, "the other job has not read them"
    assert ledger.jobs.read("job-2").first.lag == 2
    assert ledger.jobs.read(JOB).first.lag == 0


def test_a_server_that_hangs_delays_neither_other_jobs_nor_the_keeper(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, release = Reading(ledger, settings, RedisStream(key)), threading.Event()
    other = RedisStream(f"{key}-other")
    submit(ledger, "job-2", spec=spec_of(operator="echo", source=other))
    add(redis_client, key, 0, 3)

    def open_source(record: JobRecord, _stage: int) -> EndlessSource:
        source = open_stream(ledger, reading.workspace, record.id, reading.source if record.id == JOB else other)
        if record.id != JOB:
            monkeypatch.setattr(source, "survey", lambda _: release.wait(GRACE_S) and Survey(7, 1))
        return source

    retention = StreamRetention(ledger, reading.workspace, DeadRowStore(ledger, reading.workspace.blobs))
    keeper = StreamKeeper(ledger, open_source, retention, reading.workspace.blobs, pushed_ttl_s=3600, answer_s=0.05)

    def lag_after_step(job_id: str) -> int | None:
        keeper.step(reading.epoch)
        return ledger.jobs.read(job_id).first.lag

    until(lambda: lag_after_step(JOB) == 3, "the lag of the job whose server answers")
    assert ledger.jobs.read("job-2").first.lag is None
    release.set()
    until(lambda: lag_after_step("job-2") == 7, "the lag of the other one")


def test_a_drained_job_ends_and_another_begins_behind_it(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    add(redis_client, key, 0, 3)
    reading.step()
    ledger.jobs.drain(JOB)
    ledger.jobs.drain(JOB)
    add(redis_client, key, 3, 2)
    reading.step()
    record = ledger.jobs.read(JOB)
    assert (record.first.planned, record.first.rows_total, record.first.rows_planned) == (True, 3, 3)
    reading.source = RedisStream(key, offsets=record.savepoint)
    split = reading.open().splitter("").next_split(100, 10**6)
    assert isinstance(split, InputSplit)
    assert reading.open().read(split.slices).column("n").to_pylist() == ["3", "4"]


def test_what_is_settled_as_a_drained_job_ends_is_deleted_and_no_lag_is_shown(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    add(redis_client, key, 0, 3)
    reading.keeper.step(reading.epoch)
    assert ledger.jobs.read(JOB).first.lag == 3
    reading.step()
    ledger.jobs.drain(JOB)
    (later,) = add(redis_client, key, 3, 1)
    reading.step()
    reading.settle(0, 3)
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.COMPLETED, reading.epoch)
    reading.keeper.step(reading.epoch)
    assert [entry for entry, _ in redis_client.xrange(key) or ()] == [later.encode()]
    status = stream_status(ledger.jobs.read(JOB), time.time())
    assert status is not None
    assert status.lag is None


def end_by_draining(reading: Reading, client: redis.Redis, key: str) -> None:
    """Let the job settle three rows, and complete before a keeper sees it."""
    add(client, key, 0, 3)
    reading.step()
    reading.ledger.jobs.drain(JOB)
    reading.step()
    reading.settle(0, 3)
    assert reading.ledger.jobs.finish(reading.ledger.jobs.read(JOB), JobState.COMPLETED, reading.epoch)


def test_what_a_drained_job_has_settled_is_deleted_by_the_next_leader_and_when_its_source_is_back(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    end_by_draining(reading, redis_client, key)
    now_ms = ledger.now_ms()

    asked: list[object] = []

    def away(record: object, _stage: int) -> None:
        asked.append(record)
        raise StreamUnavailable("away")

    with monkeypatch.context() as patch:  # no keeper has seen the job before it ended
        patch.setattr(reading, "open", away)
        keeper = reading.new_keeper()
        keeper.step(reading.epoch)
        keeper.step(reading.epoch)
    assert len(asked) == 1, "a source that is away is asked again later"
    assert (redis_client.xlen(key), ledger.streams.drained_jobs(0)) == (3, [JOB])
    reading.new_keeper().step(reading.epoch)
    assert (redis_client.xlen(key), ledger.streams.drained_jobs(0)) == (0, [])
    ledger.streams.redis.zadd(f"{ledger.streams.prefix}jobs:drained", {"job-9": now_ms})
    assert ledger.streams.drained_jobs(now_ms + 1) == [], "a source that does not come back is not asked for ever"


def test_drained_jobs_that_have_nothing_deleted_or_are_gone_are_read_once(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key, trim=False))
    end_by_draining(reading, redis_client, key)
    ledger.streams.redis.zadd(f"{ledger.streams.prefix}jobs:drained", {"job-9": ledger.now_ms()})
    assert ledger.streams.drained_jobs(0) == [JOB, "job-9"]
    reading.keeper.step(reading.epoch)
    assert (redis_client.xlen(key), ledger.streams.drained_jobs(0)) == (3, [])


def test_rows_that_come_after_a_job_was_drained_are_none_of_its_work(
    ledger: Ledger, redis_client: redis.Redis, settings: CoordinatorSettings, key: str
) -> None:
    reading = Reading(ledger, settings, RedisStream(key))
    add(redis_client, key, 0, 3)
    reading.plan(3)
    add(redis_client, key, 3, 5)
    reading.keeper.step(reading.epoch)
    pool = ledger.jobs.read(JOB).first.spec.pool
    assert ledger.overview.work().pools[pool].rows == 8
    ledger.jobs.drain(JOB)
    reading.keeper.step(reading.epoch)
    assert ledger.overview.work().pools[pool].rows == 3


def as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


@pytest.mark.parametrize(
    ("entries", "types", "json_field"),
    [
        ([{"n": "1", "text": "a"}, {"n": "2", "text": "ä"}], {}, None),
        ([{"n": "1"}, {"n": "2"}], {"n": "int64", "other": "float64"}, None),
        ([{"n": "1"}, {"n": "x"}], {"n": "int64"}, None),
        ([{"n": "1"}, {"m": "2"}], {}, None),
        ([{"n": "1", "m": "2"}, {"m": "3", "n": "4"}], {}, None),
        ([{"n": "1"}, {"n": "2", "m": "3"}], {"m": "string"}, None),
        ([{"n": b"\xff"}, {"n": "2"}], {}, None),
        ([{b"\xff": "1"}, {b"\xff": "2"}], {}, None),
        ([{"__batchmill_x": "1"}, {"__batchmill_x": "2"}], {}, None),
        ([{f"c{n}": "1" for n in range(1001)}] * 2, {}, None),
        ([{"at": "2026-01-01T00:00:00"}, {"at": ""}], {"at": "timestamp[ms]"}, None),
        ([{"j": '{"a": 1}'}, {"j": ' {"a": 2}\n'}], {}, "j"),
        ([{"j": '{"a": 1}'}, {"j": '{"a": "x"}'}], {}, "j"),
        ([{"j": '{"a": 1}'}, {"j": '{"a":'}], {"a": "int64"}, "j"),
        ([{"j": '{"a": 1}', "n": "1"}, {"j": '{"b": 2}', "n": "2"}], {}, "j"),
        ([{"n": "1"}, {"n": "2"}], {}, "j"),
        ([{"j": '{"a": 1}'}, {"n": "2"}], {}, "j"),
    ],
)
def test_a_shard_has_the_rows_that_each_of_its_entries_is(
    redis_client: redis.Redis, key: str, entries: list[Any], types: dict[str, str], json_field: str | None
) -> None:
    """Entries with the same fields are read column by column, others one by one: the rows are the same."""
    client: Any = redis_client
    ids = [client.xadd(key, one).decode() for one in entries]
    rows: list[Any] = [
        {as_text(name): as_text(value) for name, value in one.items()}
        if json_field is None
        else one.get(json_field, "").encode()
        for one in entries
    ]
    kinds, spec = types_of(types), RedisStream(key, json_field=json_field)
    messages = [Message(offset, row, 0) for offset, row in zip(ids, rows, strict=True)]
    expected = rows_of(messages, kinds, spec.title)
    found = RedisStreamReader(redis_client, key, spec, kinds).read("", BEGINNING, ids[-1], len(ids))
    assert found.table.equals(expected.table)
    assert found.bad == expected.bad
