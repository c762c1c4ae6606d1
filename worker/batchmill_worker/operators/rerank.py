"""`rerank`: how well a text answers a query, by a cross-encoder that reads both together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams
from batchmill.operators.contract import RowError
from batchmill.operators.registration import operator
from batchmill_worker.text.columns import pair, read_texts, text_key
from batchmill_worker.text.model import load_classifier
from batchmill_worker.text.one_pass import OnePassOperator
from batchmill_worker.text.params import Backend, Column, MaxTokens, Model, Precision, Query, Truncate
from batchmill_worker.text.request import ModelRequest

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from batchmill_worker.text.columns import Text


@operator("rerank", columns=["{query_column}", "{column}"], makes=["score"], batch_format="arrow", padded=True)
class Rerank(OnePassOperator):
    """Score pairs of a query and a text with a cross-encoder.

    The new column `score` is a float32, the higher the better, as the model's own `predict` gives it. A row whose
    query or text is null fails.
    """

    def __init__(
        self,
        *,
        model: Model,
        query_column: Query = "query",
        column: Column = "text",
        max_tokens: MaxTokens = None,
        truncate: Truncate = True,
        backend: Backend = "auto",
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        self._query_column = query_column
        self._column = column
        self._request = ModelRequest(
            "rerank", "rerank", model, precision, max_tokens=max_tokens, truncate=truncate, backend=backend
        )
        self._activation: Any = None

    def setup(self, device: str) -> None:
        """Load the model onto the device.

        Raises as `load_classifier`, and `InvalidParams` if the model has several labels.
        """
        model = load_classifier(self._request, device)
        if len(model.labels) != 1:
            raise InvalidParams(
                f"operator 'rerank' expects a cross-encoder with one score, got {self._request.model!r}, "
                f"which has {len(model.labels)} labels ({', '.join(model.labels[:5])}).",
                hint="Use 'classify' with it, or name a reranker.",
                operator="rerank",
                parameter="model",
            )
        self._activation = model.activation
        sample = ("A query.", "A text.")
        self.begin(model, model.reader(model.prompt(None), sample), sample)

    def row_key(self, row: dict[str, Any]) -> str:
        """Return query and text: results depend on nothing else."""
        return text_key(row[self._query_column], row[self._column])

    def texts(self, batch: pa.Table) -> list[Text | RowError]:
        """Return the pairs of both columns."""
        queries = read_texts(batch, "rerank", self._query_column, "query_column")
        return pair(queries, read_texts(batch, "rerank", self._column))

    def on_device(self, outputs: Tensor) -> Tensor:
        """Map the outputs to the model's range of scores."""
        scores: Tensor = self._activation(outputs)
        return scores.reshape(-1)

    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """Make the column of scores."""
        return {"score": outputs.numpy()}
