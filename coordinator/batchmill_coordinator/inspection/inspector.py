"""What the coordinator asks of inspectors. What kills one, or takes too long, is an error of the input that it read."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSource
from batchmill.jobs.shard import Slice
from batchmill.processes.inspectors import InspectionFailed
from batchmill.sources import End, InputSplit, NextSplit, NotYet, RowCount, Source, SourceDescription, Splitter
from batchmill.sources.base import BadRow, RowsRead
from batchmill.sources.describing.compared_table import TableFacts
from batchmill.workspace import table_from_stream
from batchmill_coordinator.inspection.batch_lines import LineFault, ReadLines
from batchmill_coordinator.inspection.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from batchmill.jobs.files import FileSource, UploadSource
    from batchmill.processes.inspectors import InspectorPool
    from batchmill.storage.served_models import ServedModel


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What is known of a sample of a source, and of the source. kept: rows in the upload; the others are as it."""

    rows: int
    is_exact: bool
    read: int
    unreadable: int
    kept: int
    is_complete: bool
    alike: float


class Inspector:
    """Reads what users send or name, in another process. Thread-safe.

    Every method raises `InvalidSource` for input that ends the process that reads it, or that takes too long, besides
    what it says.
    """

    def __init__(self, pool: InspectorPool) -> None:
        self._pool = pool

    def describe(self, source: FileSource) -> SourceDescription:
        """Validate files as `sources.describe` does."""
        subject = source.path if isinstance(source.path, str) else ", ".join(source.path[:3])
        with _blaming(subject):
            answer = self._pool.call(Task.DESCRIBE, {"source": source.model_dump(mode="json")})
        return SourceDescription.from_json(answer.data)

    def describe_upload(self, source: UploadSource) -> SourceDescription:
        """Validate an upload as `sources.describe_upload` does."""
        with _blaming(f"upload {source.upload!r}"):
            answer = self._pool.call(Task.DESCRIBE_UPLOAD, {"upload": source.upload, "parts": source.parts})
        return SourceDescription.from_json(answer.data)

    def look_up_table(self, base: str, version: int | None) -> TableFacts:
        """Look a table up as `facts_of` does."""
        with _blaming(base):
            return TableFacts(**self._pool.call(Task.LOOK_UP_TABLE, {"base": base, "version": version}).value)

    def check_part(self, path: str, number: int) -> None:
        """Check an uploaded Arrow IPC file. Raises `InvalidRows` or `PayloadTooLarge`."""
        with _blaming(f"part {number}"):
            self._pool.call(Task.CHECK_PART, {"path": path, "number": number})

    def read_rows(self, rows_arrow: str) -> bytes:
        """Return rows that were sent as a base64 Arrow stream as a validated, uncompressed stream.

        Raises `InvalidRows` or `PayloadTooLarge`.
        """
        with _blaming("rows_arrow"):
            return self._pool.call(Task.READ_ROWS, {}, rows_arrow.encode()).data

    def apart(self, name: str, source: Source) -> Source:
        """Return a source that is described under a name, as a job's is, of which nothing is read in this process."""
        return InspectedSource(name, source, self)

    def split(self, job_id: str, cursor: str, max_rows: int, max_bytes: int) -> NextSplit:
        """Split off the next rows of a job's source, as `Splitter.next_split` does for a splitter at the cursor."""
        asked = {"job": job_id, "cursor": cursor, "rows": max_rows, "bytes": max_bytes}
        with _blaming(f"the source of job {job_id}"):
            answer = self._pool.call(Task.SPLIT, asked, key=job_id).value
        if "at_end" in answer:
            return End() if answer["at_end"] else NotYet()
        slices, rows, size, next_cursor = answer["split"]
        return InputSplit(tuple(Slice(*one) for one in slices), rows, size, next_cursor)

    def read(self, job_id: str, slices: Sequence[Slice]) -> RowsRead:
        """Read rows of a job's source, as `Source.read_with_faults` does."""
        fields = [one.fields() for one in slices]
        with _blaming(f"the source of job {job_id}"):
            answer = self._pool.call(Task.READ, {"job": job_id, "slices": fields}, key=job_id)
        return RowsRead(table_from_stream(answer.data), tuple(BadRow(*one) for one in answer.value["bad"]))

    def read_batch(self, file: str, upload_id: str, url: str, models: Mapping[str, ServedModel]) -> ReadLines:
        """Read the file of a batch, a blob, into the parts of an upload; return what is wrong with its lines.

        Raises `NotFound` if the file is gone, `StorageError`.
        """
        asked = {name: model.model_dump(mode="json") for name, model in models.items()}
        with _blaming("the file of the batch"):
            answer = self._pool.call(
                Task.READ_BATCH, {"file": file, "upload": upload_id, "url": url, "models": asked}
            ).value
        faults = [LineFault(**fault) for fault in answer.pop("faults")]
        return ReadLines(faults=faults, **answer)

    def sample(self, description: SourceDescription, upload_id: str) -> SampleFacts:
        """Read a sample of a source into the one part of an upload."""
        with _blaming("the source"):
            answer = self._pool.call(Task.SAMPLE, {"upload": upload_id}, description.to_json())
        return SampleFacts(**answer.value)


@contextmanager
def _blaming(subject: str) -> Iterator[None]:
    """Turn the death of an inspector into an error that names the files it read, or else the subject."""
    try:
        yield
    except InspectionFailed as failed:
        files = failed.files
        named = files[0] if len(files) == 1 else f"one of {', '.join(files)}" if files else subject
        raise InvalidSource(
            f"{named} cannot be read: the process that read it {failed.how}.",
            hint="The file is damaged, encrypted, or too large for this service; write it again, or leave it out.",
            file=files[0] if files else subject,
        ) from failed


class InspectedSource(Source):
    """A job's source of which nothing is read in this process: its splitter and its rows come from inspectors.

    described: the same source, opened here for what its description says.
    """

    def __init__(self, job_id: str, described: Source, inspector: Inspector) -> None:
        self.schema = described.schema
        self._job_id = job_id
        self._described = described
        self._inspector = inspector

    def count(self, cursor: str) -> RowCount:
        """See `Source`."""
        return self._described.count(cursor)

    def splitter(self, cursor: str = "") -> Splitter:
        """See `Source`."""
        return _InspectedSplitter(self._job_id, cursor, self._inspector)

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source`."""
        found = self.read_with_faults(slices)
        if found.bad:
            raise InvalidSource(found.bad[0].message, file=found.bad[0].file, line=found.bad[0].line)
        return found.table

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source`."""
        return self._inspector.read(self._job_id, slices)


class _InspectedSplitter(Splitter):
    def __init__(self, job_id: str, cursor: str, inspector: Inspector) -> None:
        self._job_id = job_id
        self._cursor = cursor
        self._inspector = inspector

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`."""
        found = self._inspector.split(self._job_id, self._cursor, max_rows, max_bytes)
        if isinstance(found, InputSplit):
            self._cursor = found.cursor
        return found
