"""Offsets, watermarks, kept shards and messages of streams: what is pure about them."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from batchmill.jobs.job import JobRequest, JobState
from batchmill.jobs.shard import is_of_shard_before
from batchmill.jobs.status import JobStatus
from batchmill.jobs.streams.kept import MARKS, MAX_SHARDS, KeptShards, Mark
from batchmill.jobs.streams.offsets import OffsetRange, PartitionOffset, StreamOffsets, range_slice, settled_offsets
from batchmill.jobs.streams.source import Folder, Kafka, Nats, Push, RedisStream
from batchmill.jobs.streams.status import StreamStatus
from batchmill.streams.base import BAD_MESSAGE, LOST_MESSAGE, Message
from batchmill.streams.messages import MAX_NAMES, event_time_ms, parse_time_ms, rows_of, united, with_lost
from batchmill.wording import progress

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    "source",
    [
        RedisStream("a:b", json_field="x"),
        Push("a", types={"n": "int64"}),
        Folder("/in"),
        Kafka("a.b", server="main"),
        Nats("a", trim=True),
    ],
)
def test_a_source_is_the_same_after_it_was_sent_however_its_defaults_are_written(
    source: RedisStream | Push | Folder | Kafka | Nats,
) -> None:
    request = JobRequest(operator="echo", source=source)
    for text in (request.model_dump_json(), request.model_dump_json(exclude_defaults=True)):
        assert JobRequest.model_validate_json(text).source == source


def test_offsets_and_ranges_are_what_was_written() -> None:
    offsets = StreamOffsets({"p": PartitionOffset("1-0", 7, 5, 6, 2), "q": PartitionOffset("9")})
    assert StreamOffsets.parse(offsets.write()) == offsets
    assert StreamOffsets.parse("").partitions == {}
    assert OffsetRange.of(range_slice("p", "1-0", "2-0", 3)) == ("p", "1-0", "2-0")


def test_a_partition_is_settled_up_to_its_first_live_shard() -> None:
    planned = StreamOffsets({"p": PartitionOffset("30"), "q": PartitionOffset("7"), "r": PartitionOffset("1")})
    live = [range_slice("p", "10", "20", 1), range_slice("q", "5", "7", 1), range_slice("p", "20", "30", 1)]
    assert settled_offsets(planned, live) == {"p": "10", "q": "5", "r": "1"}


def test_idle_partitions_do_not_hold_the_watermark_back() -> None:
    offsets = StreamOffsets({"p": PartitionOffset("1", 1, 100, 1000), "q": PartitionOffset("1", 1, 900, 90_000)})
    assert offsets.watermark_ms(now_ms=10_000, idle_s=30) == 100
    assert offsets.watermark_ms(now_ms=100_000, idle_s=30) == 900
    assert offsets.watermark_ms(now_ms=900_000, idle_s=30) == 900
    assert StreamOffsets({}).watermark_ms(0, 30) is None


def test_kept_shards_expire_by_age_and_number_and_their_marks_do_not_grow() -> None:
    kept = KeptShards()
    for step in range(1000):
        kept = kept._replace(settled=10 * step).marked(now_ms=step * 60_000, keep_s=3600)
        assert len(kept.marks) <= MARKS + 2
    assert KeptShards.parse(kept.write()) == kept
    first = kept.expired(999 * 60_000, 3600)
    assert 9990 - 10 * 60 - 10 * 4 <= first <= 9990 - 10 * 60
    many = KeptShards(0, 0, MAX_SHARDS + 5, 0, (Mark(0, 0),))
    assert many.expired(1, 3600) == 5


def messages(*rows: object) -> list[Message]:
    return [
        Message(f"{n}-0", row if isinstance(row, bytes) else json.dumps(row).encode(), n) for n, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jobs/j/results/0/part-00000017.00000001-a2.arrow", True),
        ("jobs/j/kept/0/17-a2", True),
        ("jobs/j/results/0/part-00000018-a2.arrow", False),
        ("jobs/j/results/0/notes.txt", False),
        ("jobs/j/results/0/-a2", False),
        ("jobs/j/results/0/part-\u00b2-a2.arrow", False),
    ],
)
def test_only_blobs_whose_names_say_an_older_shard_are_swept(name: str, *, expected: bool) -> None:
    assert is_of_shard_before(name, 18) is expected


def test_messages_that_are_no_rows_are_at_fault_and_no_others() -> None:
    found = rows_of(messages({"n": 1, "t": "a"}, b"", b"null", {"n": "x"}, {"n": 2.5}, b'{"n":\n3}'), {}, "s")
    assert [(one.place, one.error_type) for one in found.bad] == [(place, BAD_MESSAGE) for place in (1, 2, 3)]
    assert found.table.column("n").to_pylist() == [1.0, None, None, None, 2.5, 3.0]


@pytest.mark.parametrize("is_nested", [False, True])
def test_messages_with_more_names_of_fields_than_a_shard_may_have_are_bad_rows(*, is_nested: bool) -> None:
    many = {f"name {number}": number for number in range(MAX_NAMES - 1)}
    first = {"n": many} if is_nested else {"n": 1} | many
    found = rows_of(messages(first, {"other": 1}, {"n": first["n"]}), {}, "s")
    assert [(bad.place, "names of fields" in bad.reason) for bad in found.bad] == [(1, True)]
    assert found.table.num_rows == 3
    assert "other" not in found.table.column_names


def test_a_field_whose_name_is_no_text_is_the_fault_of_its_message_alone() -> None:
    found = rows_of(messages({"n": 1}, b'{"\\ud800": 1}', {"n": 3}), {}, "s")
    assert (found.table.column("n").to_pylist(), [one.place for one in found.bad]) == ([1, None, 3], [1])


def test_messages_are_objects_in_utf_8_whose_texts_are_left_as_they_are() -> None:
    sent = [
        b'\n {"t": "a b"} \r\n',
        '\ufeff{"t": "mark"}'.encode(),
        '{"t": "x"}'.encode("utf-16"),
        b'{"t": "a\nb"}',
        b'{"t": "\xff"}',
        b'{"t": ' + b"[" * 61 + b"]" * 61 + b"}",
    ]
    found = rows_of(messages(*sent), {}, "s")
    assert found.table.column("t").to_pylist() == ["a b", "mark", None, None, None, None]
    assert [one.place for one in found.bad] == [2, 3, 4, 5]
    assert "UTF-8" in found.bad[0].reason
    assert "nested deeper" in found.bad[3].reason


@pytest.mark.parametrize("texts", [False, True])
def test_names_that_are_the_services_own_are_bad_rows(*, texts: bool) -> None:
    rows: list[dict[str, str]] = [{"__batchmill_row__": "1", "n": "1"}, {"n": "2"}]
    sent = [Message(f"{n}-0", row, n) for n, row in enumerate(rows)] if texts else messages(*rows)
    found = rows_of(sent, {}, "s")
    assert found.table.to_pydict() == {"n": [None, "2"]}
    assert [(one.place, "'__batchmill_row__'" in one.reason) for one in found.bad] == [(0, True)]


def test_parts_that_differ_in_the_type_of_a_column_are_read_together() -> None:
    parts = [
        rows_of(messages({"n": 1}, b"bad"), {}, "s"),
        rows_of(messages({"m": "x"}), {}, "s"),
        rows_of(messages({"n": 2.5}, {"n": 3.0}), {}, "s"),
        rows_of(messages({"n": "two"}, {"n": "4"}), {}, "s"),
    ]
    found = united(parts, {}, "s")
    assert found.table.column("n").to_pylist() == [1, None, None, 2.5, 3, None, 4]
    assert found.table.column("m").to_pylist() == [None, None, "x", None, None, None, None]
    assert [one.place for one in found.bad] == [1, 5]
    given = united(parts, {"n": pa.int64()}, "s")
    assert given.table.schema.field("n").type == pa.int64()
    assert given.table.column("n").to_pylist() == [1, None, None, None, 3, None, 4]
    assert united([], {"n": pa.int64()}, "s").table.schema == pa.schema({"n": pa.int64()})


def test_null_fits_every_type_that_is_given() -> None:
    found = rows_of(messages({"n": None}, b"[]", {"m": 1}), {"n": pa.list_(pa.string())}, "s")
    assert (found.table.column("m").to_pylist(), [one.place for one in found.bad]) == ([None, None, 1], [1])


def test_fields_of_text_take_the_types_that_are_given() -> None:
    rows = [Message("0-0", {"n": "1", "t": "a"}, 0), Message("1-0", {"n": "one"}, 0), Message("2-0", {"t": "b"}, 0)]
    found = rows_of(rows, {"n": pa.int64()}, "s")
    assert found.table.to_pydict() == {"n": [1, None, None], "t": ["a", None, "b"]}
    assert [one.place for one in found.bad] == [1]


def test_lost_rows_are_before_those_that_are_left() -> None:
    found = with_lost(rows_of(messages({"n": 1}, b"bad"), {}, "s"), 2, "s")
    assert found.table.num_rows == 4
    assert [(one.place, one.error_type) for one in found.bad] == [
        (0, LOST_MESSAGE),
        (1, LOST_MESSAGE),
        (3, BAD_MESSAGE),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:01", 1000),
        ("1970-01-01T00:00:01.009", 1009),
        ("1969-12-31T23:59:59.9985", -2),
        (1.5, 1500),
        (1.009, 1009),
        ("2", 2000),
        (1_700_000_000_000, 1_700_000_000_000),
        ("soon", None),
        (None, None),
        (True, None),
        (-1, None),
        (float("nan"), None),
        (1e300, None),
        ([], None),
    ],
)
def test_times_of_events_are_read_in_all_their_forms(value: object, expected: int | None) -> None:
    assert parse_time_ms(value) == expected


def test_a_message_without_its_time_has_none() -> None:
    (message,) = messages({"at": "1970-01-01T00:00:02Z"})
    assert (event_time_ms(message, "at"), event_time_ms(message, "no"), event_time_ms(message, None)) == (2000, None, 0)


def test_the_progress_of_a_stream_is_its_lag_and_watermark() -> None:
    stream = StreamStatus(source="s", lag=12, watermark_at=0.0, rows_lost=2, away="no answer")
    status = JobStatus(
        id="job-1", state=JobState.RUNNING, operator="echo", rows_done=1000, rows_dead=3, created_at=1.0, stream=stream
    )
    assert progress(status) == (
        "1,003 rows (3 failed, 2 lost), 12 wait, up to 1970-01-01 00:00:00 UTC, its source is away"
    )
