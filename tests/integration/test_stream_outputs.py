"""Outputs of streams: files appear as rows are settled, each row is in one of them, whatever is interrupted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from batchmill.errors import StorageError
from batchmill.jobs.files import OutputSpec
from batchmill.jobs.job import JobState
from batchmill.jobs.streams.rolls import Rolls
from batchmill.sinks.rolled_folder import RolledFolder
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.stream_rolls import StreamRolls
from support.stream_week import HOUR_S, JOB, Week

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis


@pytest.fixture
def week(redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str) -> Week:
    """A stream whose output gets a file each hour, that is each second step, and keeps results for an hour."""
    output = OutputSpec(path=str(tmp_path / "out"), roll_s=HOUR_S)
    return Week(redis_client, prefix, tmp_path / "blobs", valkey_url, HOUR_S, output=output)


def rows_in(folder: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in folder.iterdir())


def rows_done(week: Week) -> int:
    return week.ledger.jobs.read(JOB).last.rows_done


def rolled(week: Week) -> Rolls:
    return Rolls.parse(week.ledger.jobs.read(JOB).last.rolled)


def listed(folder: Path) -> list[str]:
    manifests = sorted(folder.with_name("out.manifests").glob("0*.json"))
    return [part["name"] for file in manifests for part in json.loads(file.read_text())["parts"]]


def test_files_appear_as_they_are_due_and_results_are_deleted_once_they_are_in_one(week: Week, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", 0
    for _ in range(12):
        week.step()
        assert rows_in(out) == rolled(week).rows >= seen
        seen = rows_in(out)
    names = sorted(file.name for file in out.iterdir())
    assert (len(names), listed(out)) == (rolled(week).number, names)
    assert 5 <= len(names) <= 7
    assert len(week.workspace.blobs.list(f"jobs/{JOB}/results/1")) < 12 * 2, "older ones are deleted"


def test_results_that_are_in_no_file_yet_are_kept(week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise StorageError("it is away")

    with monkeypatch.context() as away:
        away.setattr(RolledFolder, "write_file", fail)
        for _ in range(6):
            week.step()
    assert rows_in(tmp_path / "out") == 0
    for _ in range(3):
        week.step()
    assert rows_in(tmp_path / "out") == rolled(week).rows
    week.rolls.close(week.ledger.jobs.read(JOB), week.epoch)
    assert rows_in(tmp_path / "out") == rows_done(week)


@pytest.mark.parametrize("place", ["before the file", "before the manifest", "before it is noted"])
def test_a_roll_that_is_interrupted_is_written_once(
    week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    names = {"before the file": "write_file", "before the manifest": "write_manifest"}
    for _ in range(2):
        week.step()
    with monkeypatch.context() as died:
        if place in names:
            died.setattr(RolledFolder, names[place], _die)
        else:
            died.setattr(Rolls, "ended", _die)
        week.step()
        week.step()
    assert rolled(week).is_writing
    written = {file.name: pq.read_table(file) for file in (tmp_path / "out").iterdir()}
    week.step()
    assert all(pq.read_table(tmp_path / "out" / name).equals(table) for name, table in written.items())
    week.rolls.close(week.ledger.jobs.read(JOB), week.epoch)
    names_there = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert (rows_in(tmp_path / "out"), listed(tmp_path / "out")) == (rows_done(week), names_there)


def _die(*_: Any) -> None:
    raise RuntimeError("it died")


def test_a_leader_that_was_replaced_notes_nothing(week: Week, tmp_path: Path) -> None:
    week.step()
    week.step()
    before, record = rolled(week), week.ledger.jobs.read(JOB)
    assert not week.ledger.streams.roll(JOB, 1, before.write(), Rolls(99).write(), week.epoch - 1)
    assert not week.ledger.streams.roll(JOB, 1, "9 9 9 9 9", Rolls(99).write(), week.epoch)
    assert not week.rolls.apply(record, week.ledger.now_ms() + HOUR_S * 1000, week.epoch - 1)
    assert (rolled(week), rows_in(tmp_path / "out")) == (before, before.rows)


def test_a_frozen_leader_that_continues_does_not_overwrite_a_roll(
    week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    week.step()
    week.step()
    wrote: list[bool] = []

    def list_after_others_went_on(*asked: Any) -> Iterator[Any]:
        if rolled(week).is_writing and not wrote:
            wrote.append(True)
            other = StreamRolls(week.ledger, week.workspace, 1000, week.clock)
            other.close(week.ledger.jobs.read(JOB), week.epoch)
            return iter(())  # as if the results had been dropped since
        return settled_shards(*asked)

    monkeypatch.setattr("batchmill_coordinator.results.stream_rolls.settled_shards", list_after_others_went_on)
    assert not week.rolls.apply(week.ledger.jobs.read(JOB), week.ledger.now_ms() + HOUR_S * 1000, week.epoch)
    assert wrote
    assert rows_in(tmp_path / "out") == rolled(week).rows == rows_done(week)


def test_full_files_do_not_wait_and_none_has_more_rows_than_it_may(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str
) -> None:
    output = OutputSpec(path=str(tmp_path / "out"), roll_s=86_400, max_rows_per_file=1000, format="jsonl")
    week = Week(redis_client, prefix, tmp_path / "blobs", valkey_url, HOUR_S, output=output, max_rows=300)
    week.step(rows=30)
    week.step(rows=4000)
    counts = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "out").iterdir())]
    assert all(600 < count <= 1000 for count in counts[1:])
    assert rows_done(week) - 1000 <= sum(counts) == rolled(week).rows
    week.ledger.jobs.stop(JOB, JobState.CANCELLING, None)
    week.rolls.close(week.ledger.jobs.read(JOB), week.epoch)
    counts = [len(file.read_text().splitlines()) for file in (tmp_path / "out").iterdir()]
    assert sum(counts) == rows_done(week)
