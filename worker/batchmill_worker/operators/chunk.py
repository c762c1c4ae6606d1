"""`chunk`: documents into overlapping pieces that a model can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from batchmill.errors import InvalidParams
from batchmill.operators.contract import Expansion, RowError
from batchmill.operators.registration import operator
from batchmill.storage.hub_models import MODEL_FORMAT
from batchmill_worker.models import setup_context
from batchmill_worker.models.model_source import fingerprint_files, hub_revision, locate_model
from batchmill_worker.text.columns import read_texts, text_key
from batchmill_worker.text.model import load_tokenizer
from batchmill_worker.text.params import Column
from batchmill_worker.text.pieces import cut
from batchmill_worker.text.request import ModelRequest, missing_extra
from batchmill_worker.text.structure import Limits, Piece, cut_along

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from batchmill_worker.text.pieces import Span

Tokenizer = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=4096,
        json_schema_extra={"format": MODEL_FORMAT},
        description="The model that tokens are counted for: a hub id, an absolute folder, or package:NAME; by default "
        "a token is a word or a sign.",
    ),
]
By = Annotated[
    Literal["tokens", "sentence", "markdown", "code"],
    Field(description="Where to cut: at any token, or between sentences, sections of Markdown, definitions in code."),
]
Size = Annotated[int, Field(ge=1, description="The most tokens of a chunk, a model's special tokens not counted.")]
Overlap = Annotated[
    int, Field(ge=0, description="How many tokens a chunk shares, at most, with the one before; less than size.")
]

_WORD = r"[\w\p{M}]+|(?!\s)\X"
_CHARACTER = r"\X"
_MADE = pa.schema(
    {
        "text": pa.string(),
        "chunk": pa.int32(),
        "start": pa.int64(),
        "end": pa.int64(),
        "headings": pa.list_(pa.string()),
    }
)


@operator("chunk", columns=["{column}"], makes=_MADE.names, batch_format="arrow", expands=True)
class Chunk:
    """Split documents into overlapping chunks.

    A document makes one row or more, with the new columns `text`, `chunk` (its number, from 0), `start` and `end`:
    `text` is `document[start:end]` in characters (Unicode code points). The chunks cover the document, and no character
    is ever cut. By tokens, all but the last have `size` tokens, and each shares `overlap` with the one before. By
    sentence, Markdown or code, they have at most `size` tokens, and share complete parts of at most `overlap`; a
    sentence, block or line that is too large itself is cut by tokens. By Markdown there is also the column `headings`,
    the titles that the chunk is under. A row whose document is null fails.
    """

    def __init__(
        self,
        *,
        column: Column = "text",
        by: By = "tokens",
        tokenizer: Tokenizer = None,
        size: Size = 200,
        overlap: Overlap = 20,
    ) -> None:
        if overlap >= size:
            raise InvalidParams(
                f"operator 'chunk': overlap is {overlap}, expected less than size, which is {size}.",
                hint="A tenth of the size is usual.",
                operator="chunk",
                parameter="overlap",
            )
        self._column = column
        self._by = by
        self._tokenizer = tokenizer
        self._limits = Limits(size, overlap)
        self._files = ""
        self._tokens: Callable[[list[str]], list[list[Span]]] | None = None
        self._characters: Callable[[str], Container[int]] | None = None

    def setup(self, device: str) -> None:  # noqa: ARG002  # tokenisers run on the host
        """Load the tokeniser.

        Raises `InvalidParams` if there is no such model or its tokeniser does not return the positions of tokens,
        `OperatorFailed` if it cannot be loaded, and `MissingExtra` if the libraries are not installed.
        """
        try:
            import regex
        except ImportError as error:
            raise missing_extra("chunk", "chunk", error) from error
        character = regex.compile(_CHARACTER)
        self._characters = lambda text: (
            range(len(text))
            if text.isascii() and "\r" not in text
            else {found.start() for found in character.finditer(text)}
        )
        if self._tokenizer is not None:
            source = locate_model(self._tokenizer, setup_context.current().locations)
            files = fingerprint_files(source)
            self._tokens = _of_model(load_tokenizer(ModelRequest("chunk", "chunk", self._tokenizer)))
            self._files = files or hub_revision(source)
        else:
            word = regex.compile(_WORD)
            self._tokens = lambda texts: [[found.span() for found in word.finditer(text)] for text in texts]

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """Return the characters of every row, plus one for the row itself."""
        return [1 if isinstance(text, RowError) else 1 + len(text) for text in self._texts(batch)]

    def row_key(self, row: dict[str, Any]) -> str:
        """Return the document: results depend on nothing else."""
        return text_key(row[self._column])

    def fingerprint(self) -> str:
        """Return a fingerprint of the tokeniser's files. Raises `LookupError` if it is unknown."""
        if self._tokenizer is not None and not self._files:
            raise LookupError(f"the loaded revision of {self._tokenizer!r} is unknown")
        return self._files

    def infer(self, batch: pa.Table) -> Expansion:
        """Cut the documents of a batch into chunks."""
        texts = self._texts(batch)
        errors = {place: text for place, text in enumerate(texts) if isinstance(text, RowError)}
        documents = [text for text in texts if not isinstance(text, RowError)]
        pieces = iter(self._pieces(documents))
        found = [[] if place in errors else next(pieces) for place in range(len(texts))]
        cut = [chunks for chunks in found if chunks]
        table = _table(documents, cut, with_headings=self._by == "markdown")
        return Expansion(table, [len(chunks) for chunks in found], errors)

    def teardown(self) -> None:
        """Drop the tokeniser."""
        self._tokens = self._characters = None

    def _texts(self, batch: pa.Table) -> list[str | RowError]:
        return read_texts(batch, "chunk", self._column)

    def _pieces(self, documents: list[str]) -> list[list[Piece]]:
        if self._tokens is None or self._characters is None:
            raise RuntimeError("chunk is used before setup() or after teardown()")
        tokens = self._tokens(documents) if documents else []
        return [
            self._cut(document, spans, self._characters(document))
            for document, spans in zip(documents, tokens, strict=True)
        ]

    def _cut(self, document: str, tokens: list[Span], characters: Container[int]) -> list[Piece]:
        limits = self._limits
        if self._by != "tokens":
            return cut_along(self._by, document, tokens, limits, characters)
        return [Piece(*span) for span in cut(len(document), tokens, limits.size, limits.overlap, characters)]


def _of_model(tokenizer: Any) -> Callable[[list[str]], list[list[Span]]]:
    def tokens(texts: list[str]) -> list[list[Span]]:
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        spans: list[list[Span]] = encoded["offset_mapping"]
        return spans

    return tokens


def _table(documents: Sequence[str], cut_documents: Sequence[Sequence[Piece]], *, with_headings: bool) -> pa.Table:
    rows = [
        (document[piece.start : piece.end], number, piece.start, piece.end, piece.headings)
        for document, pieces in zip(documents, cut_documents, strict=True)
        for number, piece in enumerate(pieces)
    ]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
    types = {"text": pa.string(), "chunk": pa.int32(), "start": pa.int64(), "end": pa.int64()}
    if with_headings:
        types["headings"] = pa.list_(pa.string())
    return pa.table(
        {name: pa.array(values, kind) for (name, kind), values in zip(types.items(), columns, strict=False)}
    )
