"""The inspectors as processes: killed, hung, out of memory, and asked for much at once."""

from __future__ import annotations

import base64
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidRows, InvalidSource, ServiceUnavailable
from batchmill.jobs.files import FileSource
from batchmill.settings import CoordinatorSettings
from batchmill.sources import End, InputSplit
from batchmill.sources.describing.describe import describe
from batchmill.workspace import Workspace, stream_from_table
from batchmill_coordinator.inspection.inspector import InspectedSource, Inspector
from batchmill_coordinator.inspection.pool import inspector_pool
from support.processes import children_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psutil

    from batchmill.processes.inspectors import InspectorPool

MODULE = "batchmill_coordinator.inspection"
HOSTILE = Path(__file__).parent.parent / "data" / "hostile"
ROWS = pa.table({"id": list(range(1000))})


def settings_of(folder: Path, **others: object) -> CoordinatorSettings:
    return CoordinatorSettings.load(blob_root=str(folder / "blobs"), unrestricted=True, tokens=("secret",), **others)


@pytest.fixture
def processes() -> Callable[[], list[psutil.Process]]:
    """The inspectors that live and were started by the test; the session's service has others."""
    others = set(children_with(MODULE))
    return lambda: [child for child in children_with(MODULE) if child not in others]


@pytest.fixture
def pool(tmp_path: Path, processes: Callable[[], list[psutil.Process]]) -> Iterator[InspectorPool]:
    pool = inspector_pool(settings_of(tmp_path))
    pool.start()
    yield pool
    pool.stop()
    assert not processes()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.parquet"
    pq.write_table(ROWS, path, row_group_size=100)
    return path


def test_what_an_inspector_says_of_a_source_is_what_this_process_would_say(pool: InspectorPool, good: Path) -> None:
    found = Inspector(pool).describe(FileSource(path=str(good)))
    assert found == describe(FileSource(path=str(good)), settings_of(good.parent).locations())


@pytest.mark.slow
def test_splits_and_rows_from_inspectors_are_the_source_even_if_each_is_killed(
    pool: InspectorPool, good: Path, tmp_path: Path, processes: Callable[[], list[psutil.Process]]
) -> None:
    inspector, workspace = Inspector(pool), Workspace.open(settings_of(tmp_path))
    workspace.describe_source("job-1", inspector.describe(FileSource(path=str(good))))
    here = workspace.open_described("job-1", workspace.described("job-1"))
    source = InspectedSource("job-1", here, inspector)
    splitter, tables = source.splitter(), []
    while not isinstance(split := splitter.next_split(300, 2**20), End):
        assert isinstance(split, InputSplit)
        for process in processes():
            process.kill()
        tables.append(source.read(split.slices))
    assert len(tables) > 3
    assert pa.concat_tables(tables).equals(ROWS)
    assert source.count("").rows == ROWS.num_rows


def test_a_file_that_ends_its_reader_is_named_and_others_are_read_meanwhile(pool: InspectorPool, good: Path) -> None:
    inspector, bad = Inspector(pool), HOSTILE / "encrypted_column.parquet"

    def rows_of(path: Path) -> int | None:
        return inspector.describe(FileSource(path=str(path))).rows

    with ThreadPoolExecutor(4) as threads:
        refused = threads.submit(rows_of, bad)
        assert list(threads.map(rows_of, [good] * 20)) == [ROWS.num_rows] * 20
        with pytest.raises(InvalidSource, match=r"encrypted_column.*was ended by SIGABRT") as error:
            refused.result()
    assert error.value.details["file"].endswith("encrypted_column.parquet")


@pytest.mark.slow
def test_one_that_hangs_is_ended_and_the_next_request_is_served(
    tmp_path: Path, good: Path, processes: Callable[[], list[psutil.Process]]
) -> None:
    pool = inspector_pool(settings_of(tmp_path, inspection_timeout_s=4, inspectors=1))  # the one that has served
    pool.start()
    inspector = Inspector(pool)
    inspector.describe(FileSource(path=str(good)))
    (hung,) = processes()
    hung.send_signal(signal.SIGSTOP)
    with pytest.raises(InvalidSource, match="took longer than 4 s"):
        inspector.describe(FileSource(path=str(good)))
    assert inspector.describe(FileSource(path=str(good))).rows == ROWS.num_rows
    pool.stop()


def test_rows_that_are_no_arrow_stream_are_invalid_and_good_ones_come_back(pool: InspectorPool) -> None:
    inspector = Inspector(pool)
    with pytest.raises(InvalidRows, match="no Arrow IPC stream"):
        inspector.read_rows(base64.b64encode(b"no stream").decode())
    stream = stream_from_table(ROWS)
    assert inspector.read_rows(base64.b64encode(stream).decode()) == stream


def test_a_pool_that_stops_blames_nobody(
    tmp_path: Path, good: Path, processes: Callable[[], list[psutil.Process]]
) -> None:
    pool = inspector_pool(settings_of(tmp_path))
    pool.start()
    inspector = Inspector(pool)
    inspector.describe(FileSource(path=str(good)))
    for process in processes():
        process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(inspector.describe, FileSource(path=str(good)))
        pool.stop()
        with pytest.raises(ServiceUnavailable, match="stopping"):
            waiting.result()
