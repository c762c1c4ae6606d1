"""`embed`: text to vectors, with a sentence-transformers model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from batchmill.errors import InvalidParams
from batchmill.operators.contract import RowError
from batchmill.operators.registration import operator
from batchmill_worker.text.columns import read_texts, text_key
from batchmill_worker.text.model import load_embedder
from batchmill_worker.text.one_pass import OnePassOperator
from batchmill_worker.text.params import Backend, Column, MaxTokens, Model, Precision, Prompt, PromptName, Truncate
from batchmill_worker.text.request import ModelRequest

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

Normalize = Annotated[bool, Field(description="Scale every vector to length 1.")]
Dimensions = Annotated[
    int | None,
    Field(ge=1, description="Keep this many numbers of a vector, the first ones; by default the model's own setting."),
]
OutputType = Annotated[
    Literal["float32", "float16", "int8", "binary"],
    Field(
        description="The numbers of the vectors. int8: each vector is scaled so that its largest number is 127. "
        "binary: a bit for each number, whether it is positive, 8 in a byte."
    ),
]
TokenCounts = Annotated[
    bool, Field(description="Add a column `tokens`: how many the model got of the text, special ones included.")
]


@operator("embed", columns=["{column}"], makes=["embedding", "tokens"], batch_format="arrow", padded=True)
class Embed(OnePassOperator):
    """Embed a column of text with a sentence-transformers model.

    The new column `embedding` is a fixed_size_list of the model's dimension, or of `dimensions`, of the `output_type`;
    of uint8 for `binary`. The vectors are what the model's own `encode` gives, whatever else is in the batch. A row
    whose text is null fails. A column with lists of integers has tokens of the model in place of texts.
    """

    def __init__(
        self,
        *,
        model: Model,
        column: Column = "text",
        normalize: Normalize = True,
        prompt: Prompt = None,
        prompt_name: PromptName = None,
        max_tokens: MaxTokens = None,
        truncate: Truncate = True,
        dimensions: Dimensions = None,
        output_type: OutputType = "float32",
        token_counts: TokenCounts = False,
        backend: Backend = "auto",
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        if prompt is not None and prompt_name is not None:
            raise InvalidParams(
                "operator 'embed' has both 'prompt' and 'prompt_name'.", hint="Give one of them.", operator="embed"
            )
        self._column = column
        self._normalize = normalize
        self._prompt = prompt
        self._prompt_name = prompt_name
        self._dimensions = dimensions
        self._output_type = output_type
        self._token_counts = token_counts
        self._request = ModelRequest(
            "embed", "embed", model, precision, max_tokens=max_tokens, truncate=truncate, backend=backend
        )

    def setup(self, device: str) -> None:
        """Load the model onto the device. Raises as `load_embedder` and `begin`."""
        model = load_embedder(self._request, device)
        self._dimensions = model.dimensions(self._dimensions)
        if self._output_type == "binary" and (self._dimensions or 8) % 8:
            raise self._request.refusal(
                f"binary vectors need a multiple of 8 numbers, got {self._dimensions}.",
                hint="Set 'dimensions' to one.",
                parameter="output_type",
            )
        reader = model.reader(model.prompt(self._prompt, self._prompt_name))
        self.begin(model, reader, counts_tokens=self._token_counts)

    def row_key(self, row: dict[str, Any]) -> str:
        """Return the text: results depend on nothing else."""
        value = row[self._column]
        return text_key(value) if isinstance(value, str) else f"tokens:{value}"

    def texts(self, batch: pa.Table) -> list[str | RowError]:
        """Return the texts of the column; those of tokens, if it has lists of them."""
        return read_texts(batch, "embed", self._column, decode=self._ready()[0].decode)

    def on_device(self, outputs: Tensor) -> Tensor:
        """Shorten and scale the vectors."""
        from torch.nn.functional import normalize

        vectors = outputs[:, : self._dimensions]
        return normalize(vectors, dim=1) if self._normalize else vectors

    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """Make the column of vectors."""
        vectors = encoded(outputs.numpy(), self._output_type)
        return {"embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])}


def encoded(vectors: npt.NDArray[np.float32], output_type: str) -> npt.NDArray[Any]:
    """Return vectors of shape (rows, dimensions) in other numbers. A row depends on no other one."""
    match output_type:
        case "float16":
            return vectors.astype(np.float16)
        case "int8":
            largest = np.abs(vectors).max(axis=1, keepdims=True)
            rounded: npt.NDArray[np.int8] = np.rint(vectors * (127 / np.maximum(largest, 1e-30))).astype(np.int8)
            return rounded
        case "binary":
            return np.packbits(vectors > 0, axis=1)
        case _:
            return vectors
