"""`parse`: files to text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from batchmill.errors import InvalidParams, InvalidRows, MissingExtra, did_you_mean
from batchmill.operators.contract import Expansion, RowError
from batchmill.operators.registration import operator
from batchmill_worker.documents.kinds import Kind
from batchmill_worker.documents.parser import Parsed, Parser
from batchmill_worker.documents.readers import LIBRARIES, LibraryMissing, Reading, require_library, text_encoding
from batchmill_worker.text.request import missing_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

Column = Annotated[str, Field(min_length=1, description="The input column with the file: bytes, or text.")]
PathColumn = Annotated[
    str,
    Field(min_length=1, description="The input column with the file's name, for its ending; it need not be there."),
]
KindName = Annotated[
    Literal["auto", "pdf", "html", "docx", "markdown", "text"],
    Field(description="The format of all files; auto: by content, and by the ending of the name."),
]
MainContent = Annotated[bool, Field(description="Of HTML, leave out navigation, headers, footers and the like.")]
Encoding = Annotated[
    str | None,
    Field(
        max_length=40,
        description="Of text, Markdown and HTML; by default the byte order mark, what an HTML page declares, UTF-8, or "
        "else Windows-1252.",
    ),
]
TimeoutS = Annotated[float, Field(gt=0, le=3600, description="The most seconds for one file.")]
MemoryMb = Annotated[int, Field(ge=256, le=2**20, description="MiB of address space of a process that parses files.")]

_MADE = pa.schema({"page": pa.int32(), "kind": pa.string(), "text": pa.string()})
_MAX_FILES_AT_ONCE = 16
"""In one batch: even if each of them hangs, the batch ends before its time limit."""


@operator(
    "parse",
    columns=["{column}"],
    makes=_MADE.names,
    consumes=["{column}"],
    batch_format="arrow",
    batch_size=_MAX_FILES_AT_ONCE,
    expands=True,
)
class Parse:
    """Convert files to text: PDF, HTML, Word (docx), Markdown and plain text.

    A file makes a row for each page, with the new columns `page` (from 1; null in kinds without pages, which make one
    row), `kind` and `text`. Files are parsed in child processes: a file that crashes its parser, takes too long, or
    needs too much memory fails, as does one that is null, empty, encrypted, or not what its name says.
    """

    def __init__(
        self,
        *,
        column: Column = "bytes",
        path_column: PathColumn = "path",
        kind: KindName = "auto",
        main_content: MainContent = True,
        encoding: Encoding = None,
        timeout_s: TimeoutS = 30.0,
        memory_mb: MemoryMb = 1024,
    ) -> None:
        self._column = column
        self._path_column = path_column
        self._kind = None if kind == "auto" else Kind(kind)
        self._main_content = main_content
        self._encoding = _known(encoding)
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._parser: Parser | None = None
        self._threads: ThreadPoolExecutor | None = None

    def setup(self, device: str) -> None:  # noqa: ARG002  # parsers run on the host
        """Start the processes that parse. Raises `MissingExtra` if the library for `kind` is not installed."""
        try:
            if self._kind is not None:
                require_library(self._kind)
        except LibraryMissing as error:
            raise _missing(error) from error
        self._parser = Parser(timeout_s=self._timeout_s, memory_mb=self._memory_mb)
        self._threads = ThreadPoolExecutor(self._parser.size, "parse")

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """Return the bytes of every file, plus one for the row itself."""
        lengths = pc.fill_null(pc.binary_length(_values(batch, self._column)), 0)
        return [1 + length for length in lengths.to_pylist()]

    def row_key(self, row: dict[str, Any]) -> bytes:
        """Return the file and its name's ending: results depend on nothing else."""
        data = row[self._column]
        if data is None:
            return b"null"
        mark = b"text" if isinstance(data, str) else b"bytes"
        ending = str(row.get(self._path_column) or "").rpartition(".")[2].lower()
        return b"\0".join([mark, ending.encode(), data.encode() if isinstance(data, str) else bytes(data)])

    def fingerprint(self) -> str:
        """Return the versions of the libraries."""
        return " ".join(f"{name}={_version(name)}" for name in LIBRARIES.values())

    def infer(self, batch: pa.Table) -> Expansion:
        """Parse the files of a batch. Raises `MissingExtra` for a file of a kind whose library is not installed."""
        if self._parser is None or self._threads is None:
            raise RuntimeError("parse is used before setup() or after teardown()")
        values = _values(batch, self._column)
        is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        paths = self._paths(batch)
        try:
            parsed = list(
                self._threads.map(lambda place: self._parse(values[place], paths[place], is_text), range(len(values)))
            )
        except LibraryMissing as error:
            raise _missing(error) from error
        errors = {place: file for place, file in enumerate(parsed) if isinstance(file, RowError)}
        files = [file for file in parsed if isinstance(file, Parsed)]
        counts = [0 if isinstance(file, RowError) else len(file.pages) for file in parsed]
        return Expansion(_table(files), counts, errors)

    def teardown(self) -> None:
        """End the processes that parse."""
        if self._parser is not None and self._threads is not None:
            self._parser.close()
            self._threads.shutdown()
        self._parser = self._threads = None

    def _parse(self, value: Any, path: str, is_text: bool) -> Parsed | RowError:
        if self._parser is None or not value.is_valid:
            return RowError(f"column {self._column!r} is null, expected a file")
        reading = Reading(self._kind, path, is_text, self._main_content, self._encoding)
        return self._parser.parse(value.as_buffer().to_pybytes(), reading)

    def _paths(self, batch: pa.Table) -> list[str]:
        if self._path_column not in batch.column_names:
            return [""] * batch.num_rows
        return ["" if path is None else str(path) for path in batch.column(self._path_column).to_pylist()]


def _values(batch: pa.Table, column: str) -> Any:
    """Return the files. Raises `InvalidRows` if there is no such column, or if it has neither bytes nor text."""
    if column not in batch.column_names:
        raise InvalidRows(
            f"operator 'parse' reads the column {column!r}, which the rows do not have.",
            hint=f"{did_you_mean(column, batch.column_names)} Set the parameter 'column'.",
            column=column,
        )
    values = batch.column(column)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_null(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return values.cast(pa.large_binary())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return values.cast(pa.large_binary())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.large_string())
    raise InvalidRows(
        f"operator 'parse' expects bytes or text in column {column!r}, got {values.type}.",
        hint="A source with format='binary' has the files in its column 'bytes'.",
        column=column,
    )


def _table(files: Sequence[Parsed]) -> pa.Table:
    pages = [(page.number, file.kind.value, page.text) for file in files for page in file.pages]
    columns = zip(*pages, strict=True) if pages else [(), (), ()]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, _MADE, strict=True)], _MADE)


def _missing(error: LibraryMissing) -> MissingExtra:
    return missing_extra("parse", error.kind.value, ModuleNotFoundError(str(error)))


def _known(encoding: str | None) -> str | None:
    known = None if encoding is None else text_encoding(encoding)
    if encoding is not None and known is None:
        raise InvalidParams(
            f"operator 'parse': encoding is {encoding!r}, which Python does not know.",
            hint="For example utf-8, windows-1252, shift_jis or gb18030.",
            operator="parse",
            parameter="encoding",
        )
    return known


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
