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
    if ending == ".json":
        return "If it holds one JSON object a line, give the source the format 'jsonl'."
    known = ", ".join(sorted(FORMATS))
    formats = ", ".join(map(repr, get_args(SourceFormat)))
    near = did_you_mean(ending, FORMATS) if ending else ""
    guess = f"{near} " if near.startswith("Did") else ""
    return f"{guess}Known endings: {known}, line formats also with .gz or .zst; or give the source a format: {formats}."
