"""A job's log as it is told: what its record says and what was kept, in one order, page by page."""

from __future__ import annotations

import pytest

from batchmill.jobs.job import JobError, JobForm
from batchmill.jobs.job_log import LogCursor, LogEntry, LogEvent, LogLevel
from batchmill.ledger import JobRecord
from batchmill.ledger.job_log import Kept
from batchmill_coordinator.status.job_log_page import life_of, page_of
from support.records import job_record, spec_of

START = LogCursor((0, 0))
SPEC = spec_of("echo", pool="gpu")


def record(**changes: str) -> JobRecord:
    return job_record(spec=SPEC, **({"created_at": "1000", "started_at": "2000"} | changes))


def entry(entry_id: str, level: LogLevel = LogLevel.WARNING) -> LogEntry:
    at = LogCursor.parse(entry_id)[0] / 1000
    return LogEntry(id=entry_id, at=at, level=level, event=LogEvent.LOST, message=entry_id)


def kept(*ids: str, noted: int | None = None, now_ms: int = 10_000, **changes: str) -> Kept:
    entries = [entry(entry_id) for entry_id in ids]
    return Kept(record(**changes), entries, len(ids) if noted is None else noted, len(ids), now_ms)


def test_changes_of_state_and_what_was_kept_stand_in_the_order_of_time() -> None:
    page = page_of(kept("1500-0", "2500-1", "2500-10"), START, LogLevel.INFO, 100)
    assert [one.id for one in page.entries] == ["1000-0", "1500-0", "2000-1000001", "2500-1", "2500-10"]
    assert (page.next, page.dropped, page.is_final) == ("2500-10", 0, False)


def test_an_entry_of_a_chain_names_the_stage_of_its_shard() -> None:
    stages = [{"operator": "echo", "name": "first"}, {"operator": "echo", "name": "last"}]
    known = {
        b"spec": JobForm(stages=stages).spec().model_dump_json().encode(),
        b"state": b"running",
        b"created_at": b"1",
    }
    chain = JobRecord.from_hashes("job-1", known, [{}, {}])
    noted = [entry("1500-0").model_copy(update={"shard": shard}) for shard in ("17.0", "1/17.0", "")]
    entries = page_of(Kept(chain, noted, 3, 3, 10_000), START, LogLevel.WARNING, 100).entries
    assert [one.stage for one in entries] == ["first", "last", ""]
    assert "[last, shard 1/17.0]" in str(entries[1])
    alone = Kept(record(), noted, 3, 3, 10_000)
    assert {one.stage for one in page_of(alone, START, LogLevel.WARNING, 100).entries} == {""}


def test_page_after_page_tells_everything_once() -> None:
    log = kept("1500-0", "2500-1", "2500-10")
    told, cursor = [], START
    while True:
        page = page_of(log, cursor, LogLevel.INFO, 2)
        if not page.entries:
            break
        told += [one.id for one in page.entries]
        cursor = LogCursor.parse(page.next)
    assert told == ["1000-0", "1500-0", "2000-1000001", "2500-1", "2500-10"]


def test_a_level_leaves_out_what_is_less_bad_and_the_cursor_passes_it_over() -> None:
    page = page_of(kept("1500-0"), START, LogLevel.WARNING, 100)
    assert [one.id for one in page.entries] == ["1500-0"]
    assert page.next == "2000-1000001"
    assert page_of(kept("1500-0"), START, LogLevel.ERROR, 100).entries == []


def test_what_happens_in_this_millisecond_is_told_with_the_next_page() -> None:
    now = page_of(kept("2500-0", now_ms=2500), START, LogLevel.INFO, 100)
    assert now.next == "2000-1000001"
    later = page_of(kept("2500-0", "2500-1", now_ms=2501), LogCursor.parse(now.next), LogLevel.INFO, 100)
    assert [one.id for one in later.entries] == ["2500-0", "2500-1"]


def test_an_ended_job_is_told_to_the_end() -> None:
    ended = kept("2500-0", state="completed", finished_at="3000", rows_done="7", rows_dead="1")
    first = page_of(ended, START, LogLevel.INFO, 3)
    assert not first.is_final
    last = page_of(ended, LogCursor.parse(first.next), LogLevel.INFO, 3)
    assert last.is_final
    assert last.entries[-1].message == "completed: 7 rows done, 1 failed"


def test_entries_that_made_room_are_counted() -> None:
    assert page_of(kept("1500-0", noted=41), START, LogLevel.INFO, 100).dropped == 40


@pytest.mark.parametrize(
    ("states", "level", "words"),
    [
        (("cancelling", "cancelled"), LogLevel.INFO, "a user stops it"),
        (("expiring", "expired"), LogLevel.WARNING, "its deadline has passed"),
        (("failing", "failed"), LogLevel.ERROR, "operator_failed: it broke"),
    ],
)
def test_why_a_job_stops_is_told_while_it_stops_and_afterwards(
    states: tuple[str, str], level: LogLevel, words: str
) -> None:
    error = JobError(code="operator_failed", message="it broke", details={"traceback": "Traceback …"})
    for state in states:
        told = {"state": state, "stopping_at": "3000"}
        if level is LogLevel.ERROR:
            told["error"] = error.model_dump_json()
        stop = list(life_of(record(**told)))[2]
        assert (stop.event, stop.level, stop.at) == (LogEvent.STOPPING, level, 3.0)
        assert stop.message.startswith(words)
        assert stop.traceback == ("Traceback …" if level is LogLevel.ERROR else "")


def test_a_job_that_goes_on_with_others_names_them() -> None:
    assert "job-0" in next(iter(life_of(record(replay_of="job-0")))).message
    assert "job-0" in next(iter(life_of(record(resumed_from="job-0")))).message


@pytest.mark.parametrize(
    ("former", "event"),
    [
        ("waiting", LogEvent.BLOCKED),
        ("going on", LogEvent.UNBLOCKED),
        ("put back", LogEvent.REQUEUED),
        ("republished", LogEvent.REDELIVERED),
        ("trouble", LogEvent.STORAGE_RETRY),
    ],
)
def test_an_entry_with_an_event_name_of_version_0_1_is_read_under_its_new_name(former: str, event: LogEvent) -> None:
    entry = LogEntry.model_validate({"id": "1-0", "at": 1.0, "level": "info", "event": former, "message": "m"})

    assert entry.event is event
    assert entry.model_dump(mode="json")["event"] == event.value


def test_an_event_name_that_never_existed_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a valid LogEvent"):
        LogEvent("on holiday")


def test_a_job_that_starts_in_the_millisecond_in_which_it_is_accepted_has_both_entries_page_by_page() -> None:
    log = kept("1000-0", started_at="1000")
    first = page_of(log, START, LogLevel.INFO, 2)
    second = page_of(log, LogCursor.parse(first.next), LogLevel.INFO, 2)
    assert [one.event for one in second.entries] == [LogEvent.STARTED]
