"""Counts the rows of text files, for a sample of a number of rows: their choice depends on how many there are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSource
from batchmill.sources.files.opening import UnreadableFile, real_location
from batchmill.sources.text.lines import begin, line_format
from batchmill.sources.text.text_ranges import ALL_ROWS, Blocks

if TYPE_CHECKING:
    from batchmill.sources.description import SourceDescription, SourceFile
    from batchmill.sources.formats.line_format import LineFormat
    from batchmill.storage.locations import Locations

MAX_COUNTING_S = 60.0
_RANGE_BYTES = 16 * 1024 * 1024


def with_all_rows_counted(described: SourceDescription, locations: Locations) -> SourceDescription:
    """Return the description with the rows of each file, which is read to its end but not parsed.

    Raises `InvalidSource` if that takes longer than `MAX_COUNTING_S`, or a file cannot be read to its end.
    """
    ends_at = time.monotonic() + MAX_COUNTING_S
    counter = _RowCounter(locations, line_format(described), described.keeps_bad_rows, ends_at)
    files = tuple(file if file.rows is not None else counter.counted(file) for file in described.files)
    return described.model_copy(update={"files": files})


class _RowCounter:
    def __init__(self, locations: Locations, form: LineFormat, keeps_bad_rows: bool, ends_at: float) -> None:
        self._locations = locations
        self._format = form
        self._keeps_bad_rows = keeps_bad_rows
        self._ends_at = ends_at

    def counted(self, file: SourceFile) -> SourceFile:
        """Return a file with the number of its rows. One that cannot be read to its end has a row for the rest."""
        location = real_location(self._locations.resolve(file.name), self._locations)
        reader = begin(Blocks(location, file.size, file.codec), self._format, keep=False)
        rows = 0
        try:
            while reader.skip_to_row() and (taken := reader.take(ALL_ROWS, _RANGE_BYTES, at_least_one=True)):
                rows += taken.rows
                self._check_time(file.name)
        except UnreadableFile:
            if not self._keeps_bad_rows:
                raise
            rows += 1
        finally:
            reader.close()
        return file.model_copy(update={"rows": rows})

    def _check_time(self, uri: str) -> None:
        if time.monotonic() > self._ends_at:
            raise InvalidSource(
                f"counting the rows of the source takes longer than {MAX_COUNTING_S:.0f} s, up to {uri}.",
                hint="Give `sample` as a share, such as 0.001, for which nothing is counted.",
                file=uri,
                field="sample",
            )
