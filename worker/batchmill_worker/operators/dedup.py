"""`signature` and `dedup`: near duplicates among all rows of a job, by their texts or vectors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from batchmill.errors import InvalidRows, MissingExtra
from batchmill.operators.contract import Expansion, PartialResult, RowError
from batchmill.operators.registration import operator
from batchmill_worker.text.columns import read_texts, text_key
from batchmill_worker.text.params import Column
from batchmill_worker.vectors.matrices import matrix_of
from batchmill_worker.vectors.similar_signatures import kept_of_signatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

NUMBERS = 128
"""In a signature: the standard error of an estimated similarity is at most 0.044."""

SEED = 1
DEFAULT_THRESHOLDS = {"vectors": 0.95, "signatures": 0.7}
DUPLICATE_OF = "duplicate_of"

By = Annotated[
    Literal["words", "characters"],
    Field(description="What a text is compared by: runs of words, or of characters, for languages without spaces."),
]
Size = Annotated[
    int | None,
    Field(ge=1, le=64, description="How many words or characters are in a run; by default 2 words or 8 characters."),
]
Compared = Annotated[
    str, Field(min_length=1, description="The column to compare: vectors, or what `signature` has made.")
]
Id = Annotated[str, Field(min_length=1, description="The column with the ids of the rows.")]
Threshold = Annotated[
    float | None,
    Field(
        gt=0,
        le=1,
        description="From which similarity on a row is a duplicate; by default 0.95 for the cosine of vectors, 0.7 for "
        "the estimated share of runs that texts have in common.",
    ),
]
Only = Annotated[
    Literal["all", "kept", "removed"], Field(description="Which rows are results: all, or one of the kinds.")
]


@operator("signature", columns=["{column}"], makes=["signature"], batch_format="arrow", batch_size=4096)
class Signature:
    """Make a MinHash signature of a text, for `dedup`.

    The new column `signature` is a fixed_size_binary of 512 bytes. The share of equal numbers in two signatures
    estimates the share of runs that the texts have in common (Jaccard). Case, spaces and punctuation do not count.
    """

    def __init__(self, *, column: Column = "text", by: By = "words", size: Size = None) -> None:
        self._column = column
        self._by = by
        self._size = size or {"words": 2, "characters": 8}[by]

    def setup(self, device: str) -> None:  # noqa: ARG002  # it uses no device
        """Load the library. Raises `MissingExtra`."""
        _rensa()

    def row_key(self, row: dict[str, Any]) -> str:
        """Return the text: results depend on nothing else."""
        return text_key(row[self._column])

    def fingerprint(self) -> str:
        """Return the version of the algorithm."""
        return f"rensa {_rensa().RMinHash.ALGORITHM_VERSION}"

    def infer(self, batch: pa.Table) -> PartialResult:
        """Make the signatures of a batch."""
        texts = read_texts(batch, "signature", self._column)
        errors = {place: text for place, text in enumerate(texts) if isinstance(text, RowError)}
        runs = [list(self._runs(text)) for text in texts if not isinstance(text, RowError)]
        rows = _rensa().RMinHash.digest_matrix_from_token_sets(runs, NUMBERS, SEED).to_rows() if runs else []
        data = np.array(rows, dtype="<u4").tobytes()
        kind = pa.binary(NUMBERS * 4)
        column = pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(data)])
        return PartialResult(pa.table({"signature": column}), errors)

    def _runs(self, text: str) -> Iterator[str]:
        words = re.findall(r"\w+", text.lower())
        parts, between = (words, " ") if self._by == "words" else (list("".join(words)), "")
        for start in range(max(len(parts) - self._size, 0) + 1):
            yield between.join(parts[start : start + self._size])


@operator(
    "dedup",
    columns=["{column}", "{id}"],
    makes=["kept", DUPLICATE_OF],
    batch_format="arrow",
    batch_size=None,
    expands=True,
    takes_all=True,
)
class Dedup:
    """Find the near duplicates among all rows of a job.

    Rows are compared in the order of the source: a row is removed if it is similar to one that is kept before it, so
    that each removed row is itself similar to the kept one. The new columns are `kept`, and `duplicate_of`, which of a
    removed row is the id of the kept row that it is most similar to.
    """

    def __init__(
        self,
        *,
        column: Compared = "embedding",
        id: Id = "id",  # noqa: A002  # as sinks call it
        threshold: Threshold = None,
        only: Only = "all",
    ) -> None:
        self._column, self._id, self._threshold, self._only = column, id, threshold, only
        self._device = ""

    def setup(self, device: str) -> None:
        """Note the device."""
        self._device = device

    def infer(self, batch: pa.Table) -> Expansion:
        """Compare all rows."""
        rows, places, faults = self._found(batch)
        is_kept = places < 0
        wanted = {"all": np.ones_like(is_kept), "kept": is_kept, "removed": ~is_kept}[self._only]
        ids = batch[self._id]
        of = pa.array(np.where(is_kept, 0, rows[places] if len(rows) else places), pa.int64())
        duplicate_of = ids.take(pc.if_else(pa.array(is_kept), pa.scalar(None, pa.int64()), of))
        counts = np.zeros(batch.num_rows, dtype=np.int64)
        counts[rows] = wanted
        results = pa.table({"kept": is_kept, DUPLICATE_OF: duplicate_of}).filter(pa.array(wanted))
        return Expansion(results, counts.tolist(), faults)

    def _found(self, batch: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[int, RowError]]:
        """Return the rows that can be compared, of each the place among them of its kept one or -1, and the others."""
        column = batch[self._column]
        kind = column.type
        if pa.types.is_fixed_size_binary(kind) and kind.byte_width % 4 == 0:
            missing = np.flatnonzero(column.is_null().to_numpy())
            rows = np.setdiff1d(np.arange(len(column)), missing)
            data = np.frombuffer(b"".join(column.drop_null().to_pylist()), dtype="<u4")
            threshold = self._threshold or DEFAULT_THRESHOLDS["signatures"]
            found = kept_of_signatures(data.reshape(len(rows), kind.byte_width // 4), threshold)
            return rows, found, {place: RowError("it has no signature.") for place in missing.tolist()}
        try:
            matrix = matrix_of(column, self._column, has_direction=True)
        except InvalidRows as error:
            raise InvalidRows(
                f"operator 'dedup': the column {self._column!r} is {kind}, expected vectors or signatures.",
                hint="Put the stage 'signature' before it for texts, and name its column: column='signature'.",
                column=self._column,
            ) from error
        from batchmill_worker.vectors.similar_vectors import kept_of_vectors

        found = kept_of_vectors(matrix.values, self._threshold or DEFAULT_THRESHOLDS["vectors"], self._device)
        return matrix.places, found, {place: RowError(f"{reason}.") for place, reason in matrix.faults.items()}


def _rensa() -> Any:
    try:
        import rensa
    except ImportError as error:
        raise MissingExtra("rensa is not installed on this worker.", hint="pip install 'batchmill[dedup]'") from error
    return rensa
