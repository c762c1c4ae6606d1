"""An output folder whose files have a size that its user chose: parts are kept in the service, and merged at the end.

1. Workers write parts into the blob store, as for an output of one file; result pages read them there.
2. `publish` of a completed job writes files of the chosen size, in input order, and then the manifest that lists them.
   An unfinished job gets its parts copied into the folder instead, so that it is resumed like any other output.
3. `adopt` copies the parts of a resumed output back.
4. `update_manifest`, after a replay, writes all files again under new names: `part-00000003-f2` is the fourth file of
   the second time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.columns import decode_schema, encode_schema
from batchmill.errors import DamagedData, NotFound, StorageError
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import parse_shard_id
from batchmill.sinks.manifest import ManifestPart, columns_of
from batchmill.sinks.merged_file import without_dictionaries, write_merged
from batchmill.sinks.part_records import PartRecord
from batchmill.sinks.publisher import FolderPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from batchmill.jobs.files import OutputSpec
    from batchmill.sinks.manifest import Manifest
    from batchmill.sinks.output_folder import OutputFolder
    from batchmill.sinks.result_store import PartFiles
    from batchmill.storage.blobs import BlobStore

_TIME = re.compile(r"part-\d+-f(\d+)\.")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a part that go into one file."""

    part: int  # its number
    offset: int
    rows: int


def plan_files(
    parts: Sequence[tuple[int, int]], max_rows: int | None, target_bytes: int | None
) -> Iterator[list[Piece]]:
    """Yield what each file gets, in order; every file has at least one row, unless there is none. Pure.

    parts: their rows and bytes. A part's rows count as equally large.
    """
    file: list[Piece] = []
    rows_in, bytes_in = 0, 0.0
    for number, (rows, nbytes) in enumerate(parts):
        row_bytes, offset = max(nbytes, 1) / max(rows, 1), 0
        while offset < rows:
            room = rows - offset if max_rows is None else max_rows - rows_in
            if target_bytes is not None:
                room = min(room, int((target_bytes - bytes_in) / row_bytes))
            if room < 1 and file:
                yield file
                file, rows_in, bytes_in = [], 0, 0.0
                continue
            taken = min(max(room, 1), rows - offset)
            file.append(Piece(number, offset, taken))
            offset, rows_in, bytes_in = offset + taken, rows_in + taken, bytes_in + taken * row_bytes
    if file or (parts and not any(rows for rows, _ in parts)):
        yield file


class SizedFolderPublisher(FolderPublisher):
    """A folder of files of a chosen size with a manifest; see `Publisher`.

    store: the folder, as a blob store. files: the part files in it. kept, parts: those in the service.
    """

    def __init__(
        self,
        store: BlobStore,
        files: PartFiles,
        folder: OutputFolder,
        output: OutputSpec,
        kept: BlobStore,
        parts: PartFiles,
    ) -> None:
        super().__init__(store, parts, folder)
        self._files = files
        self._output = output
        self._kept = kept

    def adopt(self, manifest: Manifest) -> None:
        """See `Publisher`. The parts are copied into the service."""
        for part in manifest.parts:
            self._kept.put(part.name, self._files.data(part.name))

    def is_intact(self) -> bool:
        """See `Publisher`. All files are read."""
        published = self._folder.manifest()
        if published is None:
            return False
        try:
            for part in published.parts:
                self._files.data(part.name)
        except (DamagedData, NotFound):
            return False
        return True

    def publish(self, manifest: Manifest) -> None:
        """See `Publisher`. Only a completed job gets its files; another one gets its parts, to be resumed."""
        if not self._folder.is_own():
            raise self._folder.not_own()
        self._folder.seal()
        self._store.delete_unfinished()
        self._write(manifest)
        self._folder.unmark()

    def update_manifest(self, manifest: Manifest) -> None:
        """See `Publisher`. All files are written again."""
        if not self._folder.is_published():
            raise self._folder.not_own()
        self._write(manifest)

    def _write(self, manifest: Manifest) -> None:
        superseded = self._compare(manifest).extra
        if manifest.state is JobState.COMPLETED:
            published = self._with_files(manifest)
        else:
            for part in manifest.parts:
                self._store.put(part.name, self._parts.data(part.name))
            published = manifest
        self._folder.write_manifest(published)
        for name in self._files.compare(part.name for part in published.parts).extra:
            self._files.delete_file(name)
        for name in superseded:
            self._parts.delete_file(name)

    def _with_files(self, manifest: Manifest) -> Manifest:
        """Write the files of a completed job; return the manifest that lists them."""
        sizes = [(part.rows, part.bytes) for part in manifest.parts]
        if not sizes:
            return manifest
        if manifest.arrow_schema is None:
            raise StorageError(f"the results of {self.uri} have no schema.", path=self.uri)
        schema, time = without_dictionaries(decode_schema(manifest.arrow_schema)), self._next_time()
        files = []
        planned = plan_files(sizes, self._output.max_rows_per_file, self._output.target_file_bytes)
        for number, pieces in enumerate(planned):
            name = f"part-{number:08}-f{time}.{self._output.format}"
            record = self._write_file(name, schema, manifest, pieces)
            rows = sum(piece.rows for piece in pieces)
            files.append(ManifestPart(name=name, rows=rows, bytes=record.nbytes, xxh3=record.xxh3))
        changes = {"parts": tuple(files), "columns": columns_of(schema), "arrow_schema": encode_schema(schema)}
        return manifest.model_copy(update=changes)

    def _write_file(self, name: str, schema: pa.Schema, manifest: Manifest, pieces: list[Piece]) -> PartRecord:
        tables = (self._rows(manifest.parts[piece.part], piece) for piece in pieces)
        records = []

        def fill(path: str) -> None:
            write_merged(self._output.format, path, schema, tables)
            records.append(PartRecord.of_file(path, schema))
            self._files.keep(name, records[0])

        self._store.put_file(name, fill)
        return records[0]

    def _rows(self, part: ManifestPart, piece: Piece) -> pa.Table:
        token = int(part.name.rpartition("-a")[2].partition(".")[0])
        table = self._parts.read(parse_shard_id(part.shard or ""), token)
        return table.slice(piece.offset, piece.rows)

    def _next_time(self) -> int:
        """Number this writing of the files, so that none has the name of one that is there."""
        before = self._folder.manifest()
        times = [int(found[1]) for part in (before.parts if before else ()) if (found := _TIME.match(part.name))]
        return max(times, default=0) + 1
