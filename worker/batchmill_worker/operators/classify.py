"""`classify`: the label of a text, by a sequence classifier, or by the nearest of labels that are only named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from batchmill.errors import InvalidParams
from batchmill.operators.contract import RowError
from batchmill.operators.registration import operator
from batchmill_worker.text.columns import read_texts, text_key
from batchmill_worker.text.model import load_classifier, load_embedder
from batchmill_worker.text.one_pass import OnePassOperator
from batchmill_worker.text.params import Backend, Column, MaxTokens, Model, Precision, Truncate
from batchmill_worker.text.request import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from batchmill_worker.text.model import TextModel

LABELS_PER_PASS = 32
"""Labels that are embedded in one pass."""

Labels = Annotated[
    list[Annotated[str, Field(min_length=1)]] | None,
    Field(
        min_length=2,
        description="The labels to choose from, in words; for an embedding model, which has none of its own.",
    ),
]
Template = Annotated[
    str, Field(pattern=r"\{\}", description="The sentence that a label is put into, in place of {}, to be embedded.")
]
Temperature = Annotated[
    float, Field(gt=0, description="With labels: the lower, the more of the score goes to the nearest label.")
]
TopK = Annotated[int | None, Field(ge=1, description="Add a column `scores` with this many of the best labels.")]


@operator("classify", columns=["{column}"], makes=["label", "score", "scores"], batch_format="arrow", padded=True)
class Classify(OnePassOperator):
    """Find the label of a text, with a transformers sequence classifier, or an embedding model and labels in words.

    The new columns are `label`, the best one, and `score`, a float32 between 0 and 1; with `top_k` also `scores`, a
    list of {label, score}, best first. A classifier of one label per text has the softmax of its outputs as scores,
    one of several labels per text the sigmoid of each. With `labels` the scores are
    softmax(cosine(text, template with the label) / temperature). A row whose text is null fails.
    """

    def __init__(
        self,
        *,
        model: Model,
        column: Column = "text",
        labels: Labels = None,
        template: Template = "This text is about {}.",
        temperature: Temperature = 0.05,
        top_k: TopK = None,
        max_tokens: MaxTokens = None,
        truncate: Truncate = True,
        backend: Backend = "auto",
        precision: Precision = "auto",
    ) -> None:
        super().__init__()
        self._column = column
        self._labels = _checked(labels)
        self._template = template
        self._temperature = temperature
        self._top_k = top_k
        self._request = ModelRequest(
            "classify",
            "classify",
            model,
            precision=precision,
            max_tokens=max_tokens,
            truncate=truncate,
            backend=backend,
        )
        self._scores: Callable[[Tensor], Tensor] | None = None

    def setup(self, device: str) -> None:
        """Load the model onto the device, and embed the labels if there are any.

        Raises as `load_classifier` and `load_embedder`, and `InvalidParams` for a classifier that gives numbers
        instead of labels.
        """
        if self._labels:
            advice = "Leave out 'labels', a classifier has its own."
            model = load_embedder(self._request, device, advice)
            self._scores = _nearest(self._embedded(model), self._temperature)
        else:
            advice = "Name the labels to choose from in 'labels'."
            model = load_classifier(self._request, device, advice)
            self._labels = model.labels
            self._scores = _of_classifier(model, self._request.model)
        self.begin(model, model.reader(model.prompt(None)))

    def teardown(self) -> None:
        """Drop the model and the labels' vectors."""
        super().teardown()
        self._scores = None

    def row_key(self, row: dict[str, Any]) -> str:
        """Return the text: results depend on nothing else."""
        return text_key(row[self._column])

    def texts(self, batch: pa.Table) -> list[str | RowError]:
        """Return the texts of the column."""
        return read_texts(batch, "classify", self._column)

    def on_device(self, outputs: Tensor) -> Tensor:
        """Compute the score of each label."""
        if self._scores is None:
            raise RuntimeError("classify is used before setup() or after teardown()")
        return self._scores(outputs)

    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """Make the columns of the best labels."""
        scores = outputs.numpy()
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._top_k or 1]
        values = np.take_along_axis(scores, best, axis=1)
        names = pa.array(self._labels, pa.string())
        columns: dict[str, Any] = {"label": names.take(pa.array(best[:, 0])), "score": values[:, 0].copy()}
        if self._top_k is not None:
            fields = [names.take(pa.array(best.reshape(-1))), pa.array(values.reshape(-1))]
            offsets = np.arange(len(best) + 1, dtype=np.int32) * best.shape[1]
            pairs = pa.StructArray.from_arrays(fields, ["label", "score"])
            columns["scores"] = pa.ListArray.from_arrays(pa.array(offsets), pairs)
        return columns

    def _embedded(self, model: TextModel) -> Tensor:
        """Compute a vector of length 1 for each label, in host memory."""
        import torch
        from torch.nn.functional import normalize

        reader = model.reader(model.prompt(None))
        sentences = [self._template.replace("{}", label) for label in self._labels]
        parts = [sentences[start : start + LABELS_PER_PASS] for start in range(0, len(sentences), LABELS_PER_PASS)]
        return torch.cat([model.forward(reader.features(part), normalize) for part in parts])


def _nearest(labels: Tensor, temperature: float) -> Callable[[Tensor], Tensor]:
    from torch.nn.functional import normalize

    def scores(vectors: Tensor) -> Tensor:
        cosines = normalize(vectors, dim=1) @ labels.to(vectors.device).T
        return (cosines / temperature).softmax(1)

    return scores


def _of_classifier(model: TextModel, name: str) -> Callable[[Tensor], Tensor]:
    """How the outputs of a classifier become scores, by what its configuration says of the problem it was made for."""
    if model.problem_type == "regression":
        raise InvalidParams(
            f"operator 'classify' expects a classifier of labels, got {name!r}, whose output is a number (regression).",
            hint="Use 'rerank' if it scores pairs of texts, or name another model.",
            operator="classify",
            parameter="model",
        )
    if model.problem_type == "multi_label_classification" or len(model.labels) == 1:
        return lambda outputs: outputs.reshape(len(outputs), -1).sigmoid()
    return lambda outputs: outputs.softmax(1)


def _checked(labels: Sequence[str] | None) -> list[str]:
    doubles = sorted({label for label in labels or () if (labels or ()).count(label) > 1})
    if doubles:
        raise InvalidParams(
            f"operator 'classify': 'labels' names {', '.join(map(repr, doubles))} more than once.",
            hint="Name each label once.",
            operator="classify",
            parameter="labels",
        )
    return list(labels or ())
