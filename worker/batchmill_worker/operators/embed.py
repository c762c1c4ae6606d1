"""`embed`: text to vectors, with a sentence-transformers model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import Field

from batchmill.errors import InvalidParams
from batchmill.operators.contract import RowError
from batchmill.operators.registration import operator
from batchmill_worker.text.columns import read_texts, text_key
from batchmill_worker.text.model import ModelRequest, load_embedder
from batchmill_worker.text.one_pass import OnePassOperator
from batchmill_worker.text.params import Column, Dtype, MaxTokens, Model, Prompt, PromptName, Truncate

if TYPE_CHECKING:
    from torch import Tensor

Normalize = Annotated[bool, Field(description="Scale every vector to length 1.")]
TruncateDim = Annotated[
    int | None,
    Field(ge=1, description="Keep this many numbers of a vector, the first ones; by default the model's own setting."),
]


@operator("embed", columns=["{column}"], makes=["embedding"], batch_format="arrow", padded=True)
class Embed(OnePassOperator):
    """Embed a column of text with a sentence-transformers model.

    The new column `embedding` is a fixed_size_list<float32> of the model's dimension. The vectors are what the
    model's own `encode` gives, whatever else is in the batch. A row whose text is null fails.
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
        truncate_dim: TruncateDim = None,
        dtype: Dtype = "auto",
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
        self._truncate_dim = truncate_dim
        self._request = ModelRequest("embed", "embed", model, dtype=dtype, max_tokens=max_tokens, truncate=truncate)

    def setup(self, device: str) -> None:
        """Load the model onto the device. Raises as `load_embedder`."""
        model = load_embedder(self._request, device)
        self._truncate_dim = model.dimension(self._truncate_dim)
        self.begin(model, model.reader(model.prompt(self._prompt, self._prompt_name)))

    def row_key(self, row: dict[str, Any]) -> str:
        """Return the text: results depend on nothing else."""
        return text_key(row[self._column])

    def texts(self, batch: pa.Table) -> list[str | RowError]:
        """Return the texts of the column."""
        return read_texts(batch, "embed", self._column)

    def on_device(self, outputs: Tensor) -> Tensor:
        """Shorten and scale the vectors."""
        from torch.nn.functional import normalize

        vectors = outputs[:, : self._truncate_dim]
        return normalize(vectors, dim=1) if self._normalize else vectors

    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """Make the column of vectors."""
        values = pa.array(outputs.numpy().reshape(-1))
        return {"embedding": pa.FixedSizeListArray.from_arrays(values, outputs.shape[1])}
