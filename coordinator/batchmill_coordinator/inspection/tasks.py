"""What an inspector does: describe sources, check rows and parts, split sources and read rows of them."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, assert_never

import pyarrow as pa

from batchmill.caches import Lru
from batchmill.errors import InvalidRequest, InvalidRows
from batchmill.jobs.files import FileSource, upload_part
from batchmill.jobs.shard import Slice
from batchmill.processes.messages import Message
from batchmill.sources import SourceDescription, describe, describe_upload
from batchmill.sources.base import End, InputSplit, NotYet
from batchmill.sources.describing.compared_table import facts_of
from batchmill.storage.served_models import ServedModel
from batchmill.workspace import Workspace, stream_from_table
from batchmill_coordinator.endpoints.known import endpoint_of
from batchmill_coordinator.inspection.arrow_bounds import arrow_limits, check_file, table_from_base64
from batchmill_coordinator.inspection.batch_lines import BatchReader
from batchmill_coordinator.inspection.source_sample import read_sample

if TYPE_CHECKING:
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import Source, Splitter
    from batchmill_coordinator.inspection.batch_lines import ReadLines

MAX_OPEN_SOURCES = 16


class Task(StrEnum):
    """The tasks, each with what goes with it; see the methods of `Tasks`."""

    DESCRIBE = "describe"
    DESCRIBE_UPLOAD = "describe_upload"
    LOOK_UP_TABLE = "look_up_table"
    CHECK_PART = "check_part"
    READ_ROWS = "read_rows"
    SPLIT = "split"
    READ = "read"
    READ_BATCH = "read_batch"
    SAMPLE = "sample"


@dataclass(slots=True)
class _OpenSource:
    source: Source
    splitter: Splitter
    cursor: str


class Tasks:
    """Runs tasks, one at a time. Keeps the sources that it split last open at their cursors."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._workspace = Workspace.open(settings)
        self._limits = arrow_limits(settings)
        self._open: Lru[str, _OpenSource] = Lru(MAX_OPEN_SOURCES)

    def run(self, asked: Message) -> Message:
        """Run the task that was asked for. Raises what is wrong with its input."""
        value = asked.value
        match Task(value["task"]):
            case Task.DESCRIBE:
                source = FileSource.model_validate(value["source"])
                return Message({}, describe(source, self._workspace.locations).to_json())
            case Task.DESCRIBE_UPLOAD:
                return Message({}, describe_upload(self._workspace.blobs, value["upload"], value["parts"]).to_json())
            case Task.LOOK_UP_TABLE:
                facts = facts_of(value["base"], value["version"], self._workspace.locations)
                return Message(facts._asdict())
            case Task.CHECK_PART:
                self._check_part(value["path"], value["number"])
                return Message({})
            case Task.READ_ROWS:
                return Message({}, stream_from_table(table_from_base64(asked.data, self._limits)))
            case Task.SPLIT:
                return self._split(value)
            case Task.READ:
                opened = self._workspace.open_described(value["job"], self._workspace.described(value["job"]))
                found = opened.read_with_faults(tuple(Slice(*one) for one in value["slices"]))
                return Message({"bad": [astuple(one) for one in found.bad]}, stream_from_table(found.table))
            case Task.READ_BATCH:
                return Message(asdict(self._read_batch(value)))
            case Task.SAMPLE:
                return Message(self._sample(value["upload"], SourceDescription.from_json(asked.data)))
            case never:
                assert_never(never)

    def _sample(self, upload: str, description: SourceDescription) -> dict[str, Any]:
        """Read a sample of a source into the one part of an upload."""
        source = self._workspace.open_described(f"{upload}-staged", description)
        try:
            found = read_sample(source, description.nbytes / description.rows if description.rows else 0.0)
        finally:
            self._workspace.delete_staged(f"{upload}-staged")
        self._workspace.blobs.put_table(upload_part(upload, 0), found.table)
        return {
            "rows": found.rows,
            "is_exact": found.is_exact,
            "read": found.read,
            "unreadable": found.unreadable,
            "kept": found.table.num_rows,
            "is_complete": found.is_complete,
            "alike": found.alike,
        }

    def _read_batch(self, value: dict[str, Any]) -> ReadLines:
        """Read the file of a batch into an upload: {"file": blob, "upload", "url", "models": {name: model}}."""
        blobs, endpoint = self._workspace.blobs, endpoint_of(value["url"])
        if endpoint is None:
            raise InvalidRequest(f"there is no endpoint {value['url'][:128]!r}.", field="endpoint")
        models = {name: ServedModel.model_validate(model) for name, model in value["models"].items()}

        def write(number: int, table: pa.Table) -> None:
            blobs.put_table(upload_part(value["upload"], number), table)

        return BatchReader(endpoint, models, self._limits, write).read(blobs.pieces(value["file"]))

    def _check_part(self, path: str, number: int) -> None:
        try:
            with pa.memory_map(path) as file:
                check_file(file.read_buffer(), self._limits)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidRows(
                f"part {number} is no Arrow IPC file ({error}).",
                hint="Write it with pyarrow.ipc.new_file.",
                part=number,
            ) from error

    def _split(self, value: dict[str, Any]) -> Message:
        """Split off the next rows at a cursor: {"split": [slices, rows, bytes, cursor]}, or {"at_end": …}."""
        job_id, cursor = value["job"], value["cursor"]
        opened = self._open.pop(job_id)
        if opened is None or opened.cursor != cursor:
            if opened is not None:
                opened.splitter.close()
            source = self._workspace.open_described(job_id, self._workspace.described(job_id))
            opened = _OpenSource(source, source.splitter(cursor), cursor)
        try:
            found = opened.splitter.next_split(value["rows"], value["bytes"])
        except BaseException:
            opened.splitter.close()
            raise
        if isinstance(found, InputSplit):
            opened.cursor = found.cursor
        for dropped in self._open.put(job_id, opened):
            dropped.splitter.close()
        match found:
            case InputSplit(slices, rows, nbytes, next_cursor):
                return Message({"split": [[one.fields() for one in slices], rows, nbytes, next_cursor]})
            case NotYet():
                return Message({"at_end": False})
            case End():
                return Message({"at_end": True})
            case never:
                assert_never(never)
