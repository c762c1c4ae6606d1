"""Which files a source names: paths, folders and globs, checked against the roots, in natural order."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from batchmill.errors import InvalidSource
from batchmill.sources.files.endings import FORMATS, ending_of, format_of
from batchmill.sources.files.folders import braces, is_about_data, refuse_tables
from batchmill.sources.files.opening import reading
from batchmill.sources.files.saved_datasets import STATE_FILE, saved_files
from batchmill.storage.locations import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from batchmill.jobs.files import FileSource, SourceFormat
    from batchmill.sources.description import Codec
    from batchmill.storage.locations import Locations

MAX_FILES = 100_000
MAX_LOOKED_AT = 1_000_000
"""Entries that the listing of one pattern may look at; one that is reached for two parts of a pattern counts twice."""

MAX_LISTING_S = 20.0
_MAGIC = re.compile(r"[*?[]|\{[^{}]*,[^{}]*\}")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder that a listing found."""

    location: Location
    is_folder: bool
    size: int = 0
    mtime_s: int = 0
    place: int | None = None  # among the files of its folder, where a file there lists them

    @property
    def name(self) -> str:
        """Its last part."""
        return self.location.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source, all of one format."""

    format: SourceFormat
    entries: tuple[Entry, ...]
    codecs: tuple[Codec | None, ...]
    is_tab_separated: bool = False  # by the files' ending


def list_files(spec: FileSource, locations: Locations) -> Listing:
    """List the files that a source names; each once, however many patterns it matches.

    Files that are named keep their order; those of a folder or a glob come in natural order ("part-2" before
    "part-10"). In folders, names that begin with "_" or "." are passed over. Raises `InvalidSource` for a pattern
    that no file matches, a link out of the roots, formats that are mixed or unknown.
    """
    patterns = [spec.path] if isinstance(spec.path, str) else spec.path
    if not patterns:
        raise InvalidSource("the source is an empty list of files.", hint="Name at least one file, folder or glob.")
    found: dict[str, Entry] = {}
    for pattern in patterns:
        for entry in _matches(pattern, locations, spec.format):
            locations.resolve(entry.location.uri)  # as it will be read: no link leads out, the name is printable
            found.setdefault(entry.location.uri, entry)
    formats = [format_of(uri, spec.format) for uri in found]
    _refuse_mixture(list(found), [kind for kind, _ in formats])
    is_tab_separated = [ending_of(uri)[0] == ".tsv" for uri in found]
    if formats[0][0] == "csv" and len(set(is_tab_separated)) > 1:
        raise InvalidSource(
            "the source mixes .csv and .tsv files.", hint="Name files with one ending, with a glob like 'folder/*.tsv'."
        )
    codecs = tuple(codec for _, codec in formats)
    return Listing(formats[0][0], tuple(found.values()), codecs, is_tab_separated[0])


def _matches(pattern: str, locations: Locations, asked: SourceFormat | None) -> list[Entry]:
    """List what a pattern matches, without files in folders that are about the data, such as README.md.

    asked: the files' format, if it does not follow from their endings.
    """
    location = locations.resolve(pattern)
    with reading(location):
        entry = _entry(location)
        if entry is not None and not entry.is_folder:
            return [entry]
        if entry is None and _MAGIC.search(location.path):
            entries: Iterable[Entry] = _expand(location, locations)
        elif entry is None:
            raise InvalidSource(
                f"there is no file or folder {location.uri!r}.",
                hint="Check the path; it must be one that the service can see, not only your own machine.",
                file=location.uri,
            )
        else:
            entries = _files_below(location, locations, set(), _Budget(location))
        files = list(islice(entries, MAX_FILES + 1))
        refuse_tables([file.location for file in files] or [location.child("file")], locations)
        files = _only_saved_files(files)
    files = [file for file in files if not _is_passed_over(file, files, asked)] or files
    return sorted(_counted(files, location), key=_place)


def _is_passed_over(file: Entry, files: list[Entry], asked: SourceFormat | None) -> bool:
    """Whether a file in a folder is about the data, and is not one of the data files by its own ending."""
    if asked not in (None, "parquet", "arrow") or not is_about_data(file.name):
        return False
    wanted = {asked} if asked else {FORMATS.get(ending_of(one.name)[0]) for one in files if not is_about_data(one.name)}
    return FORMATS.get(ending_of(file.name)[0]) not in wanted - {None}


def _place(file: Entry) -> list[tuple[list[str | int], str]]:
    """Return a sort key: natural order, and within a folder of saved files their own."""
    key = natural_key(file.location.path)
    return key if file.place is None else [*key[:-1], (["", file.place], file.name)]


def _only_saved_files(files: list[Entry]) -> list[Entry]:
    """Return the files, of folders that `Dataset.save_to_disk` of Hugging Face wrote only those that are the data."""
    for state in [file for file in files if file.name == STATE_FILE]:
        names = saved_files(state.location)
        if names is None:
            continue
        folder = state.location.path.rpartition("/")[0]
        here = {file.name: file for file in files if file.location.path.rpartition("/")[0] == folder}
        missing = next((name for name in names if name not in here), None)
        if missing is not None:
            raise InvalidSource(
                f"{state.location.uri} lists a file {missing[:200]!r}, which is not in its folder.",
                hint="Copy the folder again, completely.",
                file=state.location.uri,
            )
        own = {here[name].location.path: replace(here[name], place=place) for place, name in enumerate(names)}
        others = [file for file in files if file.name not in here or here[file.name] is not file]
        files = [*others, *own.values()]
    return files


def _counted(files: list[Entry], location: Location) -> list[Entry]:
    if not files:
        raise InvalidSource(
            f"no file matches {location.uri!r}.",
            hint="Check the path; in folders, names that begin with '_' or '.' are passed over.",
            file=location.uri,
        )
    if len(files) > MAX_FILES:
        raise InvalidSource(
            f"{location.uri!r} matches more than {MAX_FILES:,} files.",
            hint="Name a smaller folder, or join the files into larger ones.",
            file=location.uri,
        )
    return files


def natural_key(path: str) -> list[tuple[list[str | int], str]]:
    """Return a sort key that compares runs of digits as numbers, folder by folder."""
    return [(_numbers(part), part) for part in path.split("/")]


def _numbers(part: str) -> list[str | int]:
    return [int(run) if place % 2 else run for place, run in enumerate(_DIGITS.split(part))]


def _expand(location: Location, locations: Locations) -> Iterator[Entry]:
    """Yield what a glob matches: `*`, `?`, `[…]` within a name, `**` for any number of folders."""
    parts = location.path.split("/")
    first = _first_pattern(location, parts)
    base = at(location, "/".join(parts[:first]) or "/")
    if base.is_local and not Path(base.path).is_dir():  # a bucket has no folders, only keys
        raise InvalidSource(
            f"no file matches {location.uri!r}: the folder {base.uri!r} does not exist.",
            hint="Check the path; it must be one that the service can see, not only your own machine.",
            file=location.uri,
        )
    patterns = [_without_repeats(one.split("/")) for one in braces("/".join(parts[first:]))]
    return (entry for one in patterns for entry in _Expansion(location, locations, one).entries(base))


def _first_pattern(location: Location, parts: list[str]) -> int:
    """Return which part of a path is the first pattern: a folder whose own name has such marks is itself."""
    first = next(place for place, part in enumerate(parts) if _MAGIC.search(part))
    while location.is_local and first < len(parts) - 1 and Path("/".join(parts[: first + 1])).is_dir():
        later = (place for place in range(first + 1, len(parts)) if _MAGIC.search(parts[place]))
        first = next(later, len(parts) - 1)
    return first


def _without_repeats(parts: list[str]) -> tuple[str, ...]:
    """The parts of a pattern, each run of `**` as one; a last `**` is followed by a `*`."""
    kept = [part for place, part in enumerate(parts) if part != "**" or parts[place - 1 : place] != ["**"]]
    return (*kept, "*") if kept[-1] == "**" else tuple(kept)


class _Expansion:
    """One glob at work. Each folder is looked at once for each part of the pattern, however it is reached."""

    def __init__(self, pattern: Location, locations: Locations, parts: tuple[str, ...]) -> None:
        self._locations = locations
        self._parts = parts
        self._budget = _Budget(pattern)
        self._seen: set[tuple[str, int]] = set()
        self._walked: set[str] = set()

    def entries(self, base: Location) -> Iterator[Entry]:
        """The files that match below `base`, in no order."""
        pending = [(base, 0)]
        while pending:
            folder, place = pending.pop()
            state = (_real(folder), place)
            if state in self._seen:
                continue
            self._seen.add(state)
            part, is_last = self._parts[place], place == len(self._parts) - 1
            if part == "**":
                pending.append((folder, place + 1))
                pending += [(child, place) for child in _subfolders(folder, self._locations, self._budget)]
                continue
            for entry in _children(folder, self._locations, self._budget, partial(_fits, part)):
                if is_last and entry.is_folder:
                    yield from _files_below(entry.location, self._locations, self._walked, self._budget)
                elif is_last:
                    yield entry
                elif entry.is_folder:
                    pending.append((entry.location, place + 1))


class _Budget:
    """How much one listing may look at: a number of entries, and a time."""

    def __init__(self, named: Location) -> None:
        self._named = named
        self._ends_at = time.monotonic() + MAX_LISTING_S
        self._left = MAX_LOOKED_AT

    def spend(self, entries: int) -> None:
        """Count entries. Raises `InvalidSource` when the listing takes too long or looks at too many."""
        self._left -= entries
        if self._left < 0 or time.monotonic() > self._ends_at:
            raise InvalidSource(
                f"listing {self._named.uri!r} takes too long: over {MAX_LOOKED_AT:,} entries or {MAX_LISTING_S:.0f} s.",
                hint="Name a smaller folder, or a pattern with fewer '**'.",
                file=self._named.uri,
            )


def _fits(part: str, name: str) -> bool:
    return fnmatchcase(name, part) and (not _is_hidden(name) or name[0] == part[0])


def _is_shown(name: str) -> bool:
    return not _is_hidden(name)


def _real(folder: Location) -> str:
    return os.path.realpath(folder.path) if folder.is_local else folder.path


def _files_below(folder: Location, locations: Locations, seen: set[str], budget: _Budget) -> Iterator[Entry]:
    """The files below a folder. A link to a folder is followed, once."""
    if not folder.is_local:
        yield from _remote(folder, budget, recursive=True)
        return
    pending = [folder]
    while pending:
        current = pending.pop()
        real = _real(current)
        if real in seen:
            continue
        seen.add(real)
        for entry in _children(current, locations, budget, _is_shown):
            if entry.is_folder:
                pending.append(entry.location)
            else:
                yield entry


def _subfolders(folder: Location, locations: Locations, budget: _Budget) -> Iterator[Location]:
    """The folders in a folder that a `**` goes into; what else is there does not matter."""
    if not folder.is_local:
        yield from (entry.location for entry in _children(folder, locations, budget, _is_shown) if entry.is_folder)
        return
    locations.check(folder)
    for name in filter(_is_shown, _names(folder, budget)):
        child = folder.child(name)
        if Path(child.path).is_dir():
            yield child


def _names(folder: Location, budget: _Budget) -> list[str]:
    names = []
    with os.scandir(folder.path) as children:
        for child in children:
            budget.spend(1)
            names.append(child.name)
    return names


def _children(
    folder: Location, locations: Locations, budget: _Budget, is_wanted: Callable[[str], bool]
) -> Iterator[Entry]:
    """The entries of a folder whose names are wanted."""
    locations.check(folder)
    if not folder.is_local:
        yield from (entry for entry in _remote(folder, budget, recursive=False) if is_wanted(entry.name))
        return
    for name in filter(is_wanted, _names(folder, budget)):
        entry = _entry(folder.child(name))
        if entry is None:
            path = folder.child(name).uri
            raise InvalidSource(f"{path} is a link to a file that does not exist.", hint="Fix or remove it.", file=path)
        yield entry


def _remote(folder: Location, budget: _Budget, *, recursive: bool) -> Iterator[Entry]:
    start = len(folder.path.rstrip("/")) + 1
    for info in folder.entries(recursive=recursive):
        budget.spend(1)
        is_folder = info.type == fs.FileType.Directory
        if recursive and (is_folder or any(map(_is_hidden, info.path[start:].split("/")))):
            continue
        yield Entry(at(folder, info.path), is_folder, info.size or 0, mtime_s(info))


def _entry(location: Location) -> Entry | None:
    """Return what is at a location, or None."""
    if location.is_local:
        try:
            status = Path(location.path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(status.st_mode):
            return Entry(location, is_folder=True)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSource(f"{location.uri} is neither a file nor a folder.", hint="Remove it.", file=location.uri)
        return Entry(location, False, status.st_size, status.st_mtime_ns // 1_000_000_000)
    info = location.look_up()
    if info.type == fs.FileType.NotFound:
        return None
    return Entry(location, info.type == fs.FileType.Directory, info.size or 0, mtime_s(info))


def at(location: Location, path: str) -> Location:
    """Return the place `path` on the disks, or in the object store, of another location."""
    scheme = location.uri[: len(location.uri) - len(location.path)]
    return Location(path, scheme + path, location.objects, location.roots)


def mtime_s(info: fs.FileInfo) -> int:
    """When a file was changed, in seconds since the epoch; 0 where that is not known."""
    return int((info.mtime_ns or 0) // 1_000_000_000)


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _refuse_mixture(uris: list[str], formats: list[SourceFormat]) -> None:
    for uri, kind in zip(uris, formats, strict=True):
        if kind != formats[0]:
            raise InvalidSource(
                f"the source mixes formats: {uris[0]} is {formats[0]}, {uri} is {kind}.",
                hint="Name files of one format, for instance with a glob like 'folder/*.parquet'.",
                file=uri,
            )
