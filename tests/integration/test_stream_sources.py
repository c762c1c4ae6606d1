"""What every kind of stream does, each on a real server: one result for each row, whatever the source does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.settings import CoordinatorSettings
from batchmill.sources.base import InputSplit
from batchmill.streams.base import BAD_MESSAGE, LOST_MESSAGE
from support.stream_kinds import KafkaKind, NatsKind, PushKind, RedisKind, StreamKind
from support.stream_reading import JOB, Reading

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from batchmill.ledger import Ledger


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))


@pytest.fixture(params=["redis", "push", "kafka", "nats"])
def kind(request: pytest.FixtureRequest, ledger: Ledger, redis_client: redis.Redis, prefix: str) -> StreamKind:
    """A stream that no other test has, of each kind."""
    name = f"events-{prefix.strip(':')}"
    if request.param == "redis":
        return RedisKind(redis_client, name)
    if request.param == "push":
        return PushKind(ledger, name)
    server = request.getfixturevalue(f"{request.param}_server")
    return KafkaKind(server, name) if request.param == "kafka" else NatsKind(server, name)


def reading_of(kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings, **options: Any) -> Reading:
    source = kind.source(tenant=DEFAULT_TENANT, **options)
    return Reading(ledger, settings, source, servers=kind.servers)


def numbers(first: int, count: int) -> list[object]:
    return [{"n": first + place} for place in range(count)]


def test_rows_are_planned_once_each_in_their_order_while_they_come(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    reading = reading_of(kind, ledger, settings, max_rows=50)
    added = 0
    for count in (1, 70, 120):
        kind.add(numbers(added, count))
        added += count
        reading.plan(added)
    assert [row["n"] for row in reading.planned_rows()] == list(range(added))
    assert [row["n"] for row in reading.planned_rows()] == list(range(added)), "a shard can be read again"
    assert reading.offsets.rows_lost == 0


def test_another_leader_continues_behind_the_last_planned_row(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    reading = reading_of(kind, ledger, settings)
    first, second = reading.planner, reading.new_planner()
    for turn in range(4):
        kind.add(numbers(turn * 5, 5))
        reading.planner = (first, second)[turn % 2]
        reading.plan(turn * 5 + 5)
    assert [row["n"] for row in reading.planned_rows()] == list(range(20))


def test_the_lag_is_what_is_there_and_not_planned(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    kind.add(numbers(0, 12))
    reading = reading_of(kind, ledger, settings)
    source = reading.open()
    assert source.survey("").lag == 12
    split = source.splitter("").next_split(5, 10**6)
    while not isinstance(split, InputSplit):
        split = source.splitter("").next_split(5, 10**6)
    assert source.survey(split.cursor).lag == 12 - split.rows


def test_a_job_that_begins_with_new_rows_has_no_others(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    kind.add(numbers(0, 3))
    new = reading_of(kind, ledger, settings, start="new")
    new.source = kind.source(tenant=DEFAULT_TENANT, offsets=new.open().first_cursor())
    kind.add(numbers(3, 4))
    new.plan(4)
    assert [row["n"] for row in new.planned_rows()] == [3, 4, 5, 6]
    assert new.offsets.rows_lost == 0


def test_rows_wait_in_the_source_until_a_slot_is_free_or_they_are_many(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    kind.add(numbers(0, 3))
    splitter = reading_of(kind, ledger, settings, max_age_s=3600).open().splitter("")
    splitter.is_awaited = False
    while splitter.holds_for_s is None:
        assert not isinstance(splitter.next_split(100, 10**6), InputSplit)
    full = splitter.next_split(3, 10**6)
    assert isinstance(full, InputSplit)
    assert full.rows == 3


@pytest.mark.parametrize("kind", ["redis", "kafka", "nats"], indirect=True)  # rows that are sent are checked before
def test_a_message_that_is_no_row_is_a_bad_row_and_the_others_are_read(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    kind.add([{"n": 0}, b"{broken", b"[1]", b"\xff\xfe", {"n": 4}])
    reading = reading_of(kind, ledger, settings, max_age_s=0)
    reading.plan(5)
    found = reading.read_shard(0)
    assert [(one.place, one.error_type) for one in found.bad] == [(place, BAD_MESSAGE) for place in (1, 2, 3)]
    assert found.table.column("n").to_pylist() == [0, None, None, None, 4]


@pytest.mark.parametrize("kind", ["redis", "push", "nats"], indirect=True)  # of Kafka: see its own tests
def test_rows_that_the_source_deletes_before_they_are_planned_are_counted(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    reading = reading_of(kind, ledger, settings)
    kind.add(numbers(0, 3))
    reading.plan(3)
    kind.add(numbers(3, 10))
    kind.delete_before(9)
    reading.plan(7)
    assert reading.offsets.rows_lost == 6
    assert _all_rows(reading)[3:] == [9, 10, 11, 12]


@pytest.mark.parametrize("kind", ["redis", "push", "nats"], indirect=True)  # of Kafka: see its own tests
def test_rows_that_the_source_deletes_before_a_worker_reads_them_are_bad_rows(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    reading = reading_of(kind, ledger, settings)
    kind.add(numbers(0, 5))
    reading.plan(5)
    kind.delete_before(3)
    assert _all_rows(reading) == [LOST_MESSAGE] * 3 + [3, 4]


def _all_rows(reading: Reading) -> list[Any]:
    """The number of each row that was planned, or what is wrong with it."""
    rows: list[Any] = []
    for number in range(reading.ledger.jobs.read(JOB).first.shards_planned):
        found = reading.read_shard(number)
        bad = {one.place: one.error_type for one in found.bad}
        values = found.table["n"].to_pylist() if "n" in found.table.column_names else [None] * found.table.num_rows
        rows += [bad.get(place, value) for place, value in enumerate(values)]
    return rows


def test_a_drained_job_ends_and_another_begins_behind_it(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    reading = reading_of(kind, ledger, settings)
    kind.add(numbers(0, 3))
    reading.plan(3)
    ledger.jobs.drain(JOB)
    kind.add(numbers(3, 2))
    reading.step()
    record = ledger.jobs.read(JOB)
    assert (record.first.planned, record.first.rows_total) == (True, 3)
    reading.source = kind.source(tenant=DEFAULT_TENANT, offsets=record.savepoint)
    source = reading.open()
    split = source.splitter("").next_split(100, 10**6)
    while not isinstance(split, InputSplit):
        assert source.wait("", 10)
        split = source.splitter("").next_split(100, 10**6)
    assert source.read(split.slices).column("n").to_pylist() == [3, 4]


def test_waiting_ends_with_the_first_row_behind_the_offset(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    kind.add(numbers(0, 2))
    reading = reading_of(kind, ledger, settings)
    reading.plan(2)
    source, cursor = reading.open(), reading.offsets.write()
    assert not source.wait(cursor, 0.05)
    kind.add(numbers(2, 1))
    assert source.wait(cursor, 30)


@pytest.mark.parametrize("kind", ["kafka", "nats"], indirect=True)
def test_a_stream_of_a_server_that_was_not_named_is_refused(
    kind: StreamKind, ledger: Ledger, settings: CoordinatorSettings
) -> None:
    reading = reading_of(kind, ledger, settings)
    reading.source = kind.source(tenant=DEFAULT_TENANT, server="other")
    with pytest.raises(InvalidSource, match=r"no (kafka|nats) server 'other'"):
        reading.open()
