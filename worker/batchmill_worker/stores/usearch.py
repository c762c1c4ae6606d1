"""usearch: a folder with the rows as an Arrow file and their graph index as a file of usearch, to be copied or mapped.

1. An attempt writes its rows into a file of its own, `.staged/JOB/PART.arrow`.
2. `publish` writes all rows that are to be visible, and their index, into a new folder, which then gets the name of the
   next version, `v00000001`. Nobody can give that name twice, so of two publishers at the same time one starts again,
   and finds the other's job in the newest version.
3. The newest version is the visible one, and the one before it stays for those who read it. Keys of the index are the
   numbers of rows in the Arrow file.

Each publication writes the rows and the index anew, also for `upsert`. The index has vectors in half precision; what it
finds is compared again in full.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.errors import InvalidParams, MissingExtra, StaleToken, StorageUnavailable
from batchmill.jobs.sink import ID, INDEX_FROM_ROWS, ROOT, IndexSpec
from batchmill_worker.stores.base import DISTANCE, Published, Receipt, foreign, twins
from batchmill_worker.stores.filters import check_columns
from batchmill_worker.stores.row_filters import matching_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import RowError
    from batchmill_worker.stores.base import Build, Where

    Vectors = npt.NDArray[np.float32]

ROWS, INDEX, ABOUT = "rows.arrow", "index.usearch", "about.json"
"""The files of a version."""

STAGED = ".staged"
MAX_TRIES = 20  # to publish a version, while others publish as well
KEPT_VERSIONS = 2
ROWS_AT_ONCE = 10_000
SEARCHED, REFINED = 100, 3  # candidates that a search considers; how many times `k` are compared in full
_VERSION = re.compile(r"v\d{8}")
_METRICS = {"cosine": "cos", "l2": "l2sq", "dot": "ip"}


@dataclass(frozen=True, slots=True)
class _Version:
    """A version that is there. number: 0 for the one before the first."""

    number: int
    folder: Path
    job: str = ""
    index: str = "none"
    deleted: int = 0

    def rows(self) -> pa.Table:
        """Return its rows, which are read as they are used."""
        return _mapped(self.folder / ROWS)


class UsearchStore:
    """A folder; see `Store`."""

    def __init__(self, path: str) -> None:
        self._folder = Path(path)

    def schema(self) -> pa.Schema | None:
        """See `Store`."""
        with self._reached("read"):
            head = self._head()
            return head.rows().schema if head.number else None

    def refused(self, rows: pa.Table) -> dict[int, RowError]:  # noqa: ARG002  # a file takes all values
        """See `Store`."""
        return {}

    def write(self, build: Build, part: str, rows: pa.Table) -> Receipt:
        """See `Store`."""
        with self._reached("write to"):
            self._refuse_published(self._head(), build)
            folder = self._folder / STAGED / build.job
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as private:
                _write(Path(private) / ROWS, rows)
                (Path(private) / ROWS).replace(folder / f"{part}.arrow")
        return Receipt(part, rows.num_rows)

    def publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        """See `Store`."""
        with self._reached("write to"):
            for _ in range(MAX_TRIES):
                head = self._head()
                if head.job != build.job:
                    self._refuse_published(head, build)
                    if not self._make_next(head, build, receipts):
                        continue
                    head = self._head()
                self._clean(head)
                return Published(head.rows().num_rows, head.deleted, head.index)
        raise StorageUnavailable(f"{self._folder} is changed by others all the time.", path=str(self._folder))

    def search(self, sink: SinkSpec, vector: Vectors, k: int, where: Where, columns: Sequence[str] | None) -> pa.Table:
        """See `Store`."""
        with self._reached("search"):
            head = self._head()
            if not head.number:
                raise InvalidParams(f"there is no index {self._folder}.")
            rows = head.rows()
            names = [name for name in rows.column_names if name != sink.vector] if columns is None else list(columns)
            check_columns([*names, *where], rows.column_names)
            if where or head.index == "none":
                candidates = matching_rows(rows, where)
            else:
                candidates = self._candidates(head, rows.num_rows, vector, k)
            distances = _distances(rows[sink.vector], candidates, vector, sink.metric)
            nearest = np.argsort(distances, kind="stable")[:k]
            nearest = nearest[np.isfinite(distances[nearest])]
            found = rows.select(names).take(pa.array(candidates[nearest]))
        return found.append_column(DISTANCE, pa.array(distances[nearest], pa.float32()))

    def _candidates(self, head: _Version, count: int, vector: Vectors, k: int) -> npt.NDArray[np.int64]:
        wanted = min(k * REFINED, count)
        index = _index_class().restore(str(head.folder / INDEX), view=True)
        index.expansion_search = max(SEARCHED, wanted)
        return np.asarray(index.search(vector, wanted).keys, dtype=np.int64)

    def _make_next(self, head: _Version, build: Build, receipts: Sequence[Receipt]) -> bool:
        """Make the next version; return whether nobody else has."""
        new = self._staged(build, receipts)
        kept, deleted = _kept_rows(head, build, new)
        rows = pa.concat_tables([kept, new])
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".building-") as private:
            folder = Path(private) / "version"
            folder.mkdir()
            _write(folder / ROWS, rows)
            index = _build_index(folder / INDEX, rows, build)
            about = {"job": build.job, "target": build.sink.to, "index": index, "deleted": deleted}
            (folder / ABOUT).write_text(json.dumps(about | {"metric": build.sink.metric}))
            try:
                folder.rename(self._folder / f"v{head.number + 1:08}")
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        return True

    def _staged(self, build: Build, receipts: Sequence[Receipt]) -> pa.Table:
        """Return the rows of these attempts. Raises `StaleToken` if they are gone, and `InvalidRows` as `publish`."""
        folder = self._folder / STAGED / build.job
        try:
            parts = [_mapped(folder / f"{receipt.part}.arrow") for receipt in receipts]
        except FileNotFoundError as error:
            raise StaleToken(f"the rows of this job in {self._folder} were published or dropped meanwhile.") from error
        rows = pa.concat_tables([build.schema.empty_table(), *parts])
        if build.sink.id is not None:
            counts = pc.value_counts(rows[ID].combine_chunks())
            twice = counts.filter(pc.greater(counts.field("counts"), 1))
            if len(twice):
                raise twins(build, rows.filter(pc.equal(rows[ID], twice[0]["values"]))[ROOT][0].as_py())
        return rows

    def _clean(self, head: _Version) -> None:
        """Delete versions that are too old, and what jobs left that can no longer be published."""
        for number, folder in self._versions()[:-KEPT_VERSIONS]:
            if number < head.number:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self._folder / STAGED).glob("*"):
            if folder.name <= head.job:
                shutil.rmtree(folder, ignore_errors=True)

    def _refuse_published(self, head: _Version, build: Build) -> None:
        if head.job == build.job:
            raise StaleToken(f"the rows of this job are in {self._folder} already.")
        if head.job > build.job:
            raise StaleToken(f"job {head.job} has published rows into {self._folder} since.")

    def _head(self) -> _Version:
        """Return the newest version. Raises `InvalidOutput` for what no sink has made."""
        versions = self._versions()
        if not versions:
            if self._folder.exists() and not (self._folder / STAGED).is_dir() and any(self._folder.iterdir()):
                raise foreign(str(self._folder), "there is a folder that no sink has made")
            return _Version(0, self._folder)
        number, folder = versions[-1]
        about = json.loads((folder / ABOUT).read_text())
        return _Version(number, folder, about["job"], about["index"], about["deleted"])

    def _versions(self) -> list[tuple[int, Path]]:
        if self._folder.is_file():
            raise foreign(str(self._folder), "there is a file")
        found = self._folder.glob("v*") if self._folder.exists() else ()
        return sorted((int(one.name[1:]), one) for one in found if _VERSION.fullmatch(one.name))

    @contextmanager
    def _reached(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageUnavailable(
                f"could not {action} {self._folder}: {error.strerror or error}", path=str(self._folder)
            ) from error


def _kept_rows(head: _Version, build: Build, new: pa.Table) -> tuple[pa.Table, int]:
    """Return the visible rows that stay, and how many do not."""
    if not head.number:
        return new.slice(0, 0), 0
    old = head.rows()
    if build.sink.mode in ("replace", "mirror"):
        return new.slice(0, 0), old.num_rows
    column = ID if build.sink.mode == "amend" else ROOT
    kept = old.filter(pc.invert(pc.is_in(old[column], value_set=new[column].combine_chunks())))
    return kept, old.num_rows - kept.num_rows


def _build_index(path: Path, rows: pa.Table, build: Build) -> str:
    """Write the index that the sink asks for; return its kind."""
    sink = build.sink
    if not isinstance(sink.index, IndexSpec) and (sink.index == "none" or rows.num_rows < INDEX_FROM_ROWS):
        return "none"
    spec = sink.index if isinstance(sink.index, IndexSpec) else IndexSpec()
    index = _index_class()(
        ndim=build.dimension,
        metric=_METRICS[sink.metric],
        dtype="f16",
        connectivity=spec.m,
        expansion_add=spec.ef_construction,
    )
    start = 0
    for vectors in _matrices(rows[sink.vector]):
        # Several threads leave some vectors without a way to them: about one in a thousand could never be found.
        index.add(np.arange(start, start + len(vectors)), vectors, threads=1)
        start += len(vectors)
    index.save(str(path))
    return "hnsw"


def _distances(
    column: pa.ChunkedArray, places: npt.NDArray[np.int64], vector: Vectors, metric: str
) -> npt.NDArray[np.float32]:
    """Return how far rows are from a vector; not finite if one of the two has no direction."""
    found = [np.empty(0, np.float32)]
    for start in range(0, len(places), ROWS_AT_ONCE):
        some = column.take(pa.array(places[start : start + ROWS_AT_ONCE]))
        for vectors in _matrices(some):
            if metric == "l2":
                found.append(np.linalg.norm(vectors - vector, axis=1))
                continue
            products = vectors @ vector
            if metric == "cosine":
                with np.errstate(divide="ignore", invalid="ignore"):
                    products = products / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector))
            found.append(1 - products)
    return np.concatenate(found).astype(np.float32)


def _matrices(column: pa.ChunkedArray) -> Iterator[Vectors]:
    """Yield vectors as matrices, without copies."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), ROWS_AT_ONCE):
            some = chunk.slice(start, ROWS_AT_ONCE)
            yield some.flatten().to_numpy(zero_copy_only=False).reshape(len(some), -1)


def _write(path: Path, rows: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=ROWS_AT_ONCE)


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _index_class() -> Any:
    try:
        from usearch.index import Index
    except ImportError as error:
        raise MissingExtra(
            "usearch is not installed on this worker.", hint="pip install 'batchmill[usearch]'"
        ) from error
    return Index
