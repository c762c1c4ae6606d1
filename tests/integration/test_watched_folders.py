"""Watched folders as the source of jobs: each file once, the oldest first, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import StreamUnavailable
from batchmill.jobs.streams.offsets import OffsetRange, StreamOffsets
from batchmill.jobs.streams.source import Folder
from batchmill.settings import CoordinatorSettings
from batchmill.sources import describe
from batchmill.sources.base import InputSplit, NotYet, RowsRead
from batchmill.streams import watched_place
from batchmill.streams.base import BAD_FILE
from batchmill.streams.watched_folder import WatchedFolder
from batchmill.workspace import Workspace
from support.hand_clock import HandClock
from support.ledger_steps import submit
from support.records import spec_of

if TYPE_CHECKING:
    from batchmill.jobs.files import FileSource
    from batchmill.ledger import Ledger
    from batchmill.sources.base import Source
    from batchmill.sources.description import SourceDescription

JOB = "job-1"


class OwnProcess:
    """Reads files in this process, as an inspector does in others."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def describe(self, source: FileSource) -> SourceDescription:
        return describe(source, self._workspace.locations)

    def apart(self, _name: str, source: Source) -> Source:
        return source


class Watched:
    """A folder that a job watches."""

    def __init__(
        self, ledger: Ledger, settings: CoordinatorSettings, folder: Path, job: str = JOB, **options: Any
    ) -> None:
        self.folder = folder
        self.job = job
        self.ledger = ledger
        self.workspace = Workspace.open(settings)
        self.clock = HandClock(1_000_000.0)
        self.spec = Folder(str(folder), **options)
        submit(ledger, job, spec=spec_of(operator="echo", source=self.spec))
        self.cursor = self.opened().first_cursor()

    def opened(self, *, reads: bool = True) -> WatchedFolder:
        inspector = OwnProcess(self.workspace) if reads else None
        return WatchedFolder(self.job, self.spec, self.workspace, self.ledger.streams, inspector, self.clock)

    def write(self, name: str, text: str, age_s: float = 100.0) -> None:
        path = self.folder / name
        path.write_text(text)
        os.utime(path, (self.clock.now_s - age_s,) * 2)

    def next(self, max_rows: int = 100) -> InputSplit | None:
        """The next split, by a planner that has just opened the folder."""
        found = self.opened().splitter(self.cursor).next_split(max_rows, 10**6)
        if isinstance(found, NotYet):
            return None
        assert isinstance(found, InputSplit)
        self.cursor = found.cursor
        return found

    def rows(self, max_rows: int = 100) -> list[Any]:
        """The values of the rows that there are now, read as workers do."""
        found: list[Any] = []
        while (split := self.next(max_rows)) is not None:
            found += self.read(split).table.column("n").to_pylist()
        return found

    def read(self, split: InputSplit) -> RowsRead:
        return self.opened(reads=False).read_with_faults(split.slices)


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    blobs, folder = tmp_path / "blobs", tmp_path / "in"
    blobs.mkdir()
    folder.mkdir()
    return CoordinatorSettings(
        redis_url=valkey_url, redis_prefix=prefix, blob_root=str(blobs), roots=(str(folder),), tokens=("secret",)
    )


@pytest.fixture
def folder(settings: CoordinatorSettings, tmp_path: Path) -> Path:  # noqa: ARG001  # makes it
    return tmp_path / "in"


def lines(*numbers: int) -> str:
    return "".join(f'{{"n": {number}}}\n' for number in numbers)


def test_files_are_read_once_each_as_they_appear_the_oldest_first(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    assert watched.rows() == []
    watched.write("b.jsonl", lines(3, 4, 5), age_s=50)
    watched.write("c.jsonl", lines(1, 2), age_s=60)
    assert watched.rows(max_rows=2) == [1, 2, 3, 4, 5]
    watched.write("a.jsonl", lines(6), age_s=500)
    assert watched.rows() == [6]
    assert watched.rows() == []
    assert StreamOffsets.parse(watched.cursor).partitions[JOB].position == 6


def test_a_file_that_is_still_written_or_is_not_meant_waits(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder, pattern="*.jsonl", ready_after_s=10)
    watched.write("a.jsonl", lines(1), age_s=1)
    watched.write("_b.jsonl", lines(2))
    watched.write("c.csv", "n\n3\n")
    assert watched.rows() == []
    watched.clock.now_s += 10
    assert watched.rows() == [1]


def test_a_marker_says_that_a_file_is_ready(ledger: Ledger, settings: CoordinatorSettings, folder: Path) -> None:
    watched = Watched(ledger, settings, folder, marker=".done")
    watched.write("a.jsonl", lines(1))
    assert watched.rows() == []
    watched.write("a.jsonl.done", "", age_s=0)
    assert watched.rows() == [1]


def test_a_file_that_a_planner_has_taken_and_not_planned_is_read_by_the_next(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("b.jsonl", lines(1), age_s=10)
    taken = watched.opened().splitter(watched.cursor).next_split(100, 10**6)  # its plan is never written
    assert isinstance(taken, InputSplit)
    watched.write("a.jsonl", lines(2), age_s=20)
    assert watched.rows() == [2, 1]


def test_a_file_that_cannot_be_read_is_one_bad_row_and_the_next_is_read(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("a.unknown", "what is this", age_s=50)
    watched.write("b.jsonl", lines(1), age_s=10)
    split = watched.next()
    assert split is not None
    (bad,) = watched.read(split).bad
    assert (split.rows, bad.error_type, "a.unknown" in bad.message) == (1, BAD_FILE, True)
    assert watched.rows() == [1]


def test_what_is_settled_and_what_the_folder_has_no_more_is_forgotten(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    for number in range(3):
        watched.write(f"{number}.jsonl", lines(number), age_s=100 - number)
    splits = [split for split in (watched.next(), watched.next(), watched.next()) if split is not None]
    assert len(watched.workspace.blobs.folders(f"jobs/{JOB}/files")) == 3
    watched.opened().settle([{JOB: OffsetRange.of(splits[2].slices[0]).last}])
    assert watched.workspace.blobs.folders(f"jobs/{JOB}/files") == ["3"]
    (folder / "0.jsonl").unlink()
    assert watched.next() is None
    assert ledger.streams.files_of(JOB) == {"1.jsonl": 2, "2.jsonl": 3}


def test_a_job_that_begins_with_new_files_leaves_out_those_that_are_there(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    (folder / "old.jsonl").write_text(lines(1))
    (folder / "changed.jsonl").write_text(lines(2))
    watched = Watched(ledger, settings, folder, start="new")
    assert watched.rows() == []
    watched.write("changed.jsonl", lines(3))
    watched.write("new.jsonl", lines(4), age_s=50)
    assert watched.rows() == [3, 4]
    assert watched.rows() == []


def test_a_job_that_continues_another_begins_at_the_row_behind_its_last_one(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    first = Watched(ledger, settings, folder)
    first.write("a.jsonl", lines(1), age_s=90)
    first.write("b.jsonl", lines(2, 3, 4, 5), age_s=80)
    splits = [first.next(max_rows=2), first.next(max_rows=2)]
    read = [n for split in splits if split is not None for n in first.read(split).table.column("n").to_pylist()]
    assert read == [1, 2, 3]
    noted = first.opened().splitter(first.cursor)
    noted.next_split(100, 10**6)  # it is noted by the first job, and never planned
    second = Watched(ledger, settings, folder, job="job-2")
    second.cursor = second.opened().follow(JOB, first.cursor)
    first.write("c.jsonl", lines(6), age_s=70)
    assert second.rows(max_rows=1) == [4, 5, 6]
    third = Watched(ledger, settings, folder, job="job-3")
    third.cursor = third.opened().follow("job-2", second.cursor)
    first.write("d.jsonl", lines(7), age_s=60)
    assert third.rows() == [7]


def test_the_lag_is_estimated_from_the_files_that_wait(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    for number in range(4):
        watched.write(f"{number}.jsonl", lines(*range(10)), age_s=90 - number)
    assert watched.opened().survey(watched.cursor).lag == 4, "nothing is known of files"
    assert watched.next() is not None
    assert watched.opened().survey(watched.cursor).lag == 30
    watched.rows()
    assert watched.opened().survey(watched.cursor).lag == 0


def test_a_file_that_changes_or_goes_while_it_is_read_ends_nothing_but_itself(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("a.jsonl", lines(1, 2, 3, 4, 5), age_s=90)
    watched.write("b.jsonl", lines(6, 7), age_s=80)
    watched.write("c.jsonl", lines(8), age_s=70)
    first = watched.next(2)
    assert first is not None
    watched.write("a.jsonl", lines(1, 2, 3, 4, 5, 9), age_s=1)
    rest = watched.next(2)
    assert rest is not None
    assert (rest.rows, len(watched.read(rest).bad)) == (1, 1), "the rest is one bad row"
    found = watched.read(first)
    assert [one.error_type for one in found.bad] == [BAD_FILE] * 2
    assert "changed" in found.bad[0].message
    second = watched.next(100)
    assert second is not None
    (folder / "b.jsonl").unlink()
    assert len(watched.read(second).bad) == second.rows == 2
    assert watched.rows() == [8]
    folder.rename(folder.with_name("moved"))
    with pytest.raises(StreamUnavailable, match="is not there"):
        watched.read(second)


def test_the_rest_of_a_file_that_changed_is_a_bad_row_also_if_its_planner_died(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("a.jsonl", lines(1, 2, 3), age_s=90)
    watched.next(1)
    (folder / "a.jsonl").unlink()
    lost = watched.opened().splitter(watched.cursor).next_split(100, 10**6)  # its plan is never written
    again = watched.next()
    assert isinstance(lost, InputSplit)
    assert again is not None
    assert (again.slices, again.rows) == (lost.slices, 1)
    assert watched.next() is None


def test_a_name_that_looks_like_a_pattern_is_its_own_file_or_none(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(ledger, settings, folder)
    names = ("*.jsonl", "a[bc].jsonl", "{a,b}.jsonl", "a%20b.jsonl", "a b#?.jsonl", "ab.jsonl", "ü.jsonl", "a\nb.jsonl")
    for number, name in enumerate(names):
        watched.write(name, lines(number), age_s=100 - number)
    assert watched.rows() == list(range(len(names)))

    def describe_late(inspector: OwnProcess, source: FileSource) -> SourceDescription:
        Path(str(source.path)).unlink()
        return describe(source, inspector._workspace.locations)

    watched.write("d[ab].jsonl", lines(100))
    watched.write("da.jsonl", lines(101), age_s=-(10**9))
    monkeypatch.setattr(OwnProcess, "describe", describe_late)
    gone = watched.next()
    assert gone is not None
    (bad,) = watched.read(gone).bad
    assert "d[ab].jsonl" in bad.message


def test_links_out_and_what_is_no_file_are_not_read(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path, tmp_path: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    outside = tmp_path / "outside.jsonl"
    outside.write_text(lines(666))
    os.utime(outside, (1, 1))
    for name, target in (("loop", "loop.jsonl"), ("none", "nothing"), ("dir", tmp_path)):
        (folder / f"{name}.jsonl").symlink_to(target)
    os.mkfifo(folder / "pipe.jsonl")
    watched.write("a.jsonl", lines(1))
    assert watched.rows() == [1]
    (folder / "out.jsonl").symlink_to(outside)
    split = watched.next()
    assert split is not None
    found = watched.read(split)
    assert [one.error_type for one in found.bad] == [BAD_FILE]
    assert "666" not in str(found.table.to_pylist())


def test_a_name_that_is_no_text_costs_its_file_only_and_is_logged(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(ledger, settings, folder)
    (folder / os.fsdecode(b"bad\xff.jsonl")).write_text(lines(1))
    watched.write("good.jsonl", lines(2))
    assert watched.rows() == [2]
    assert watched.opened().survey(watched.cursor).lag == 0
    assert r"its name is not UTF-8: bad\xff.jsonl" in caplog.text
    planner = watched.opened()
    caplog.clear()
    for _ in range(3):
        planner.take_next(1)
    assert len(caplog.records) == 1


class Mounted:
    """Moves a folder to where its files are those of another disk, as when a mount vanishes, and back."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._kept = folder.with_name("kept")
        self._is_away = False
        monkeypatch.setattr(watched_place, "device_and_inode", self._device_and_inode)

    def vanish(self) -> None:
        self._folder.rename(self._kept)
        self._folder.mkdir()
        self._is_away = True

    def come_back(self) -> None:
        self._folder.rmdir()
        self._kept.rename(self._folder)
        self._is_away = False

    def _device_and_inode(self, path: str) -> tuple[int, int]:
        found = Path(path).stat()
        return found.st_dev + self._is_away, found.st_ino


def test_a_mount_that_vanishes_and_leaves_its_folder_is_waited_for(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = Mounted(folder, monkeypatch)
    watched = Watched(ledger, settings, folder)
    watched.write("a.jsonl", lines(1), age_s=90)
    watched.write("b.jsonl", lines(2, 3), age_s=80)
    assert watched.rows() == [1, 2, 3]
    watched.write("c.jsonl", lines(4, 5), age_s=70)
    split = watched.next(1)
    assert split is not None
    mounted.vanish()
    asked = (
        lambda: watched.read(split),
        watched.next,
        watched.rows,
        lambda: watched.opened().survey(watched.cursor),
    )
    for ask in asked:
        with pytest.raises(StreamUnavailable, match="another folder than before"):
            ask()
    mounted.come_back()
    assert watched.read(split).table.column("n").to_pylist() == [4]
    assert watched.rows() == [5], "what was read is not read again"


def test_a_folder_that_was_never_there_is_waited_for_and_the_job_says_so(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    missing = folder / "misspelt"
    watched = Watched(ledger, settings, missing)
    with pytest.raises(StreamUnavailable, match="is not there"):
        watched.next()
    missing.mkdir()
    watched.write("a.jsonl", '{"id": 1}\n')
    assert watched.next() is not None


def test_a_folder_that_vanishes_is_waited_for_and_nothing_is_read_twice(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("a.jsonl", lines(1), age_s=90)
    assert watched.rows() == [1]
    folder.rename(folder.with_name("moved"))
    with pytest.raises(StreamUnavailable, match="is not there"):
        watched.next()
    folder.with_name("moved").rename(folder)
    assert watched.rows() == []


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_folder_that_is_emptied_or_made_anew_goes_on(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path, *, is_made_anew: bool
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("a.jsonl", lines(1), age_s=90)
    watched.write("b.jsonl", lines(2), age_s=80)
    assert watched.rows() == [1, 2]
    if is_made_anew:
        folder.rename(folder.with_name("yesterday"))
        folder.mkdir()
    else:
        for path in folder.iterdir():
            path.unlink()
    assert watched.rows() == []
    watched.write("a.jsonl", lines(3))
    assert watched.rows() == [3]


def test_planned_rows_of_a_folder_that_is_emptied_are_bad_rows(
    ledger: Ledger, settings: CoordinatorSettings, folder: Path
) -> None:
    watched = Watched(ledger, settings, folder)
    watched.write("a.jsonl", lines(1), age_s=90)
    split = watched.next()
    assert split is not None
    (folder / "a.jsonl").unlink()
    assert [one.error_type for one in watched.read(split).bad] == [BAD_FILE]
