"""A prefix of a bucket as the source of a job, over S3 on a real server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from batchmill.jobs.streams.source import Folder
from batchmill.sources import describe
from batchmill.sources.base import InputSplit
from batchmill.storage.blobs import BlobStore
from batchmill.streams.watched_folder import WatchedFolder
from batchmill.workspace import Workspace
from support.hand_clock import HandClock
from support.ledger_steps import submit
from support.records import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.jobs.files import FileSource
    from batchmill.ledger import Ledger
    from batchmill.sources.base import Source
    from batchmill.sources.description import SourceDescription
    from batchmill.storage.locations import Locations

JOB = "job-1"


class OwnProcess:
    """Reads files in this process, as an inspector does in others."""

    def __init__(self, locations: Locations) -> None:
        self._locations = locations

    def describe(self, source: FileSource) -> SourceDescription:
        return describe(source, self._locations)

    def apart(self, _name: str, source: Source) -> Source:
        return source


def test_objects_below_a_prefix_are_read_once_each_when_they_are_ready(
    ledger: Ledger, bucket: tuple[str, Locations], tmp_path: Path
) -> None:
    uri, locations = bucket
    objects = BlobStore(locations.resolve(uri))
    workspace = Workspace(BlobStore.open(str(tmp_path / "blobs"), locations), locations)
    spec = Folder(f"{uri}/in", ready_after_s=60)
    submit(ledger, JOB, spec=spec_of(operator="echo", source=spec))
    clock = HandClock(time.time())
    watched = WatchedFolder(JOB, spec, workspace, ledger.streams, OwnProcess(locations), clock)
    cursor = watched.first_cursor()

    def rows() -> list[Any]:
        nonlocal cursor
        found: list[Any] = []
        while isinstance(split := watched.splitter(cursor).next_split(2, 10**6), InputSplit):
            cursor = split.cursor
            found += watched.read_with_faults(split.slices).table.column("n").to_pylist()
        return found

    assert rows() == [], "a prefix without objects is empty"
    objects.put("in/a.jsonl", b'{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    objects.put("in/deeper/z.jsonl", b'{"n": 9}\n')
    objects.put("beside.jsonl", b'{"n": 8}\n')
    assert rows() == [], "it was written a moment ago"
    clock.now_s += 120
    assert watched.survey(cursor).lag == 1
    assert rows() == [1, 2, 3]
    objects.put("in/b.jsonl", b'{"n": 4}\n')
    assert rows() == [4]
    assert rows() == []
