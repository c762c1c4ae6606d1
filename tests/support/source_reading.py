"""Sources described and read without a service, as a worker does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import RowsRead, describe, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from pathlib import Path

LOCATIONS = Locations(UNRESTRICTED)


def read_with_faults(folder: Path, path: Path | str, **options: Any) -> RowsRead:
    """All rows of a source, read as a worker does, in one piece."""
    blobs = BlobStore.open(f"{folder}/_blobs", LOCATIONS)
    description = describe(FileSource(path=str(path), **options), LOCATIONS)
    source = open_source(type(description).from_json(description.to_json()), LOCATIONS, blobs, "jobs/job-1/staged")
    with source.splitter() as splitter:
        slices = tuple(one for split in splitter.available(1 << 30, 1 << 40) for one in split.slices)
    found = source.read_with_faults(slices)
    assert found.table.schema == source.schema
    assert source.count("").rows == found.table.num_rows or not source.count("").exact
    return found


def read(folder: Path, path: Path | str, **options: Any) -> list[dict[str, Any]]:
    found = read_with_faults(folder, path, **options)
    assert found.bad == ()
    rows: list[dict[str, Any]] = found.table.to_pylist()
    return rows


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, path: Path | str, **options: Any) -> str:
    with pytest.raises(InvalidSource) as caught:
        read_with_faults(folder, path, **options)
    return str(caught.value)
