"""What folders of data hold besides data: files about it, and the logs of table formats."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from batchmill.errors import InvalidSource
from batchmill.storage.locations import Location

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.storage.locations import Locations

_ABOUT_DATA = (
    *("readme*", "license*", "licence*", "notice*", "changelog*", "*.md", "*.rst", "*.yaml", "*.yml", "*.crc"),
    *("thumbs.db", "desktop.ini", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
    "*.manifest.json",  # of outputs
    *("*.md5", "*.sha256", "sha256sums", "md5sums"),
)
MAX_CHOICES = 64  # patterns that one pattern may stand for
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
DELTA, HUDI, ICEBERG = "Delta", "Hudi", "Iceberg"
_HINTS = {
    **dict.fromkeys((DELTA, ICEBERG), "Name the table's own folder alone, without a format or a glob."),
    HUDI: "List its current files with a library for Hudi, and give the source these files by name.",
}


def is_about_data(name: str) -> bool:
    """Whether a file in a folder is about the data, so that a source of the folder passes over it."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in _ABOUT_DATA)


def braces(pattern: str) -> list[str]:
    """Return the patterns that one with choices represents: `{a,b}.csv` is `a.csv` and `b.csv`."""
    patterns = [pattern]
    while (found := _CHOICE.search(patterns[0])) is not None:
        before, behind = found.group(0), found[1].split(",")
        patterns = [one.replace(before, choice, 1) for one in patterns for choice in behind]
        if len(patterns) > MAX_CHOICES:
            raise InvalidSource(
                f"{pattern[:200]!r} represents more than {MAX_CHOICES} patterns.", hint="Use `*` instead of choices."
            )
    return patterns


def refuse_tables(files: Sequence[Location], locations: Locations) -> None:
    """Raise `InvalidSource` if files that a folder or a glob gave are of a table, whose log says which are current."""
    seen: set[str] = set()
    for file in files:
        scheme = file.uri[: len(file.uri) - len(file.path)]
        for folder in Path(file.path).parents:
            path = str(folder)
            if path in seen or path in ("/", "."):
                break
            if "=" in folder.name:
                continue  # of a partition; the table is above
            seen.add(path)
            kind = table_kind(Location(path, scheme + path, file.objects, file.roots), locations)
            if kind is not None:
                raise InvalidSource(
                    f"{scheme + path} is a {kind} table: its folder also holds rows that were deleted or replaced.",
                    hint=_HINTS[kind],
                    file=scheme + path,
                )


def table_kind(folder: Location, locations: Locations) -> str | None:
    """Return of which format a folder is a table; None if it is none."""
    try:
        locations.check(folder)
    except InvalidSource:
        return None  # above the roots
    if _is_folder(folder.child("_delta_log")):
        return DELTA
    if _is_folder(folder.child(".hoodie")):
        return HUDI
    metadata = folder.child("metadata")
    return ICEBERG if _is_folder(metadata) and _has_iceberg_metadata(metadata) else None


def _is_folder(location: Location) -> bool:
    if location.is_local:
        return Path(location.path).is_dir()
    return bool(location.look_up().type == fs.FileType.Directory)


def _has_iceberg_metadata(folder: Location) -> bool:
    if folder.is_local:
        return any(Path(folder.path).glob("*.metadata.json"))
    return any(info.path.endswith(".metadata.json") for info in folder.entries(recursive=False))
