"""Tables described and read without a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import SourceDescription, describe, open_source
from batchmill.storage.blobs import BlobStore
from support.source_reading import LOCATIONS

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.storage.locations import Locations


def look(path: Path | str, locations: Locations = LOCATIONS, **options: Any) -> SourceDescription:
    return describe(FileSource(path=str(path), **options), locations)


def rows_of(description: SourceDescription, folder: Path) -> list[dict[str, Any]]:
    source = open_source(description, LOCATIONS, BlobStore.open(str(folder / "_blobs"), LOCATIONS), "staged")
    with source.splitter() as splitter:
        splits = list(splitter.available(3, 1 << 40))
    assert sum(split.rows for split in splits) == source.count("").rows
    return [row for split in splits for row in source.read(split.slices).to_pylist()]


def read(path: Path | str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    return sorted(rows_of(look(path, **options), folder), key=str)


def refusal(path: Path | str, locations: Locations = LOCATIONS, **options: Any) -> InvalidSource:
    with pytest.raises(InvalidSource) as caught:
        look(path, locations, **options)
    return caught.value


def pairs(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return sorted((row["id"], row["name"]) for row in rows)
