"""The format of a file, and how it is compressed, by the ending of its name."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, get_args

from batchmill.errors import InvalidSource, did_you_mean
from batchmill.jobs.files import SourceFormat

if TYPE_CHECKING:
    from batchmill.sources.description import Codec

FORMATS: dict[str, SourceFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
    ".txt": "text",
    ".text": "text",
}
_CODECS: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd"}
_ROWS = "Read it where you submit: rows= takes a generator of dicts or Arrow tables"
_UNPACKED = "Unpack it first (line formats can stay compressed as .gz or .zst)."
_ADVICE = (
    {
        ".json": "If it holds one JSON object a line, give the source the format 'jsonl'. If it is one JSON array, "
        "read it with `json.load` and give it as rows=.",
        ".avro": f"{_ROWS}, such as `fastavro.reader(file)` or `polars.read_avro(path)`.",
        ".orc": f"{_ROWS}, such as `pyarrow.dataset.dataset(path, format='orc').to_batches()`.",
        ".lance": f"{_ROWS}, such as `lance.dataset(path).to_batches()`.",
        ".xml": f"{_ROWS}, such as `pandas.read_xml(path)`.",
    }
    | dict.fromkeys(
        (".tar", ".tgz", ".zip"), f"Unpack it. Or r{_ROWS[1:]}, as docs/how-to/other-inputs.md shows for tar."
    )
    | dict.fromkeys((".bz2", ".xz", ".lzma", ".lz4", ".br", ".7z"), _UNPACKED)
    | dict.fromkeys((".tfrecord", ".tfrecords"), f"{_ROWS}, such as the features of a `tf.data.TFRecordDataset`.")
    | dict.fromkeys((".warc", ".wet", ".wat"), f"{_ROWS}, made of the records that `fastwarc` or `warcio` gives.")
    | dict.fromkeys((".xlsx", ".xls", ".ods"), f"{_ROWS}, such as `pandas.read_excel(path)`.")
    | dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb"), f"{_ROWS}, such as those of a query.")
    | dict.fromkeys((".npy", ".npz", ".h5", ".hdf5"), f"{_ROWS}, made of slices of the arrays.")
    | dict.fromkeys(
        (".pkl", ".pickle"), "Reading a pickle can run code, so the service reads none. Convert it to Parquet."
    )
)
"""What to do with files that are often met and not read, by ending."""
_LINE_FORMATS = frozenset({"jsonl", "csv", "text"})


def format_of(uri: str, asked: SourceFormat | None) -> tuple[SourceFormat, Codec | None]:
    """Return the format of a file, `asked` if it is given, and its codec. Raises `InvalidSource` for none known."""
    ending, codec = ending_of(uri)
    if asked == "binary":
        codec = None
    kind = asked or FORMATS.get(ending)
    if kind is None:
        raise InvalidSource(
            f"{uri}: the ending {ending!r} is not a known format.",
            hint=_ending_hint(ending),
            file=uri,
        )
    if codec is not None and kind not in _LINE_FORMATS:
        raise InvalidSource(
            f"{uri} is a {kind} file inside a {codec} file.",
            hint=f"Decompress it: {kind} compresses its own columns.",
            file=uri,
        )
    return kind, codec


def ending_of(uri: str) -> tuple[str, Codec | None]:
    """Return the ending that gives a file's format, and how it is packed."""
    name = PurePosixPath(uri.lower())
    codec = _CODECS.get(name.suffix)
    return (name.suffix if codec is None else PurePosixPath(name.stem).suffix), codec


def _ending_hint(ending: str) -> str:
    if ending in _ADVICE:
        return _ADVICE[ending]
    known = ", ".join(sorted(FORMATS))
    formats = ", ".join(map(repr, get_args(SourceFormat)))
    near = did_you_mean(ending, FORMATS) if ending else ""
    guess = f"{near} " if near.startswith("Did") else ""
    return f"{guess}Known endings: {known}, line formats also with .gz or .zst; or give the source a format: {formats}."
