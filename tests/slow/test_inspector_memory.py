"""A source that an inspector has no memory for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.inspection.inspector import Inspector
from batchmill_coordinator.inspection.pool import inspector_pool

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_that_needs_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    wide = tmp_path / "wide.arrow"
    table = pa.table({"a": pa.array([b"x" * 2**20] * 900)})
    with pa.OSFile(str(wide), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    settings = CoordinatorSettings.load(
        blob_root=str(tmp_path / "blobs"), unrestricted=True, tokens=("secret",), inspection_memory_mb=900
    )
    pool = inspector_pool(settings)
    pool.start()
    try:
        with pytest.raises(InvalidSource, match=r"wide\.arrow"):
            Inspector(pool).describe(FileSource(path=str(wide)))
    finally:
        pool.stop()
