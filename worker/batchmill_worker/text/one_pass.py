"""The base of text operators that pass each batch through one model once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.operators.contract import PartialResult, RowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from batchmill.operators.contract import BackendInfo
    from batchmill_worker.text.columns import Text
    from batchmill_worker.text.model import TextModel
    from batchmill_worker.text.tokens import TextReader


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A prepared batch."""

    features: dict[str, Any] | None  # what the model takes; None if no row has a text for it
    errors: dict[int, RowError]  # of the rows that fail, by position in the batch


class OnePassOperator(ABC):
    """The hooks of such an operator. Its `setup` calls `begin`; the abstract methods define its input and output."""

    def __init__(self) -> None:
        self._loaded: tuple[TextModel, TextReader] | None = None
        self._counts_tokens = False

    @abstractmethod
    def texts(self, batch: pa.Table) -> Sequence[Text | RowError]:
        """Return the model's input for each row."""

    @abstractmethod
    def on_device(self, outputs: Tensor) -> Tensor:
        """Compute on the device, from the model's outputs, a result for each row."""

    @abstractmethod
    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """Make the new columns from the results of `on_device`."""

    def begin(
        self, model: TextModel, reader: TextReader, sample: Text = "A text.", *, counts_tokens: bool = False
    ) -> None:
        """Use this loaded model from now on, with the backend that the job asks for. sample: as in `TextModel.reader`.

        counts_tokens: add the column `tokens`.

        Raises as `TextModel.choose_backend`, and `InvalidParams` if the model does not report its tokens.
        """
        if counts_tokens and "attention_mask" not in reader.features([sample]):
            raise model.request.refusal(
                "the model does not report the tokens of a text.",
                hint="Leave out 'token_counts'.",
                parameter="token_counts",
            )
        self._counts_tokens = counts_tokens
        model.choose_backend(reader, sample)
        self._loaded = model, reader

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """Return the number of tokens of every row."""
        return self._ready()[1].costs(self.texts(batch))

    def prepare(self, batch: pa.Table) -> TokenBatch:
        """Tokenise a batch, padded to its longest row."""
        reader = self._ready()[1]
        texts, errors = reader.admit(self.texts(batch))
        return TokenBatch(reader.features(texts) if texts else None, errors)

    def infer(self, batch: TokenBatch) -> tuple[TokenBatch, Tensor | None]:
        """Run the model once."""
        model = self._ready()[0]
        return batch, None if batch.features is None else model.forward(batch.features, self.on_device)

    def finish(self, outputs: tuple[TokenBatch, Tensor | None]) -> PartialResult:
        """Return the new columns, and the rows that failed."""
        batch, tensor = outputs
        if tensor is None or batch.features is None:
            return PartialResult(pa.table({}), batch.errors)
        columns = self.columns(tensor)
        if self._counts_tokens:
            columns["tokens"] = batch.features["attention_mask"].sum(1).int().numpy()
        return PartialResult(pa.table(columns), batch.errors)

    def teardown(self) -> None:
        """Drop the model."""
        self._loaded = None

    def memory_bytes(self) -> int:
        """Return the bytes of the model's weights on the device."""
        return self._ready()[0].memory_bytes()

    def fingerprint(self) -> str:
        """Return a fingerprint of the files that the model was loaded from."""
        return self._ready()[0].fingerprint()

    def computes_with(self) -> BackendInfo:
        """Return what runs the model."""
        return self._ready()[0].backend

    def _ready(self) -> tuple[TextModel, TextReader]:
        if self._loaded is None:
            raise RuntimeError(f"{type(self).__name__} is used before setup() or after teardown()")
        return self._loaded
