"""`/v1/embeddings`: each input is a row with a text; its result has the vector."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill_coordinator.endpoints.base import BodyFault, Rows, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered

MAX_INPUTS = 2048
TEXT = "text"
VECTOR = "embedding"
TOKENS = "tokens"


class Embeddings:
    """Reads a row's vector from its column `embedding`, and its number of tokens from `tokens`."""

    url = "/v1/embeddings"
    kind: ModelKind | None = "embeddings"

    def rows(self, body: Mapping[str, Any]) -> Rows:
        """See `Endpoint`. `dimensions` shortens the vector of the model."""
        inputs = body.get("input")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise BodyFault("Input parameter is required: a text, or a list of texts.", "input")
        if len(texts) > MAX_INPUTS:
            raise BodyFault(f"'input' has {len(texts):,} texts, at most {MAX_INPUTS:,} are allowed.", "input")
        for text in texts:
            if not isinstance(text, str) or not text:
                raise BodyFault("'input' must be texts that are not empty; tokens are not supported.", "input")
        return Rows(tuple({TEXT: text} for text in texts), form=_form(body))

    def row_schema(self) -> pa.Schema:
        """See `Endpoint`."""
        return pa.schema({TEXT: pa.string()})

    def params(self, model: ServedModel, given: Mapping[str, Any]) -> dict[str, Any]:
        """See `Endpoint`. The built-in operator counts the tokens."""
        counted = {"token_counts": True} if model.operator == "embed" else {}
        return {**model.params, **given, **counted, **({"column": TEXT} if "column" in model.params else {})}

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        data = [
            {"object": "embedding", "index": index, "embedding": _written(row[VECTOR], about.form)}
            for index, row in enumerate(results)
        ]
        tokens = sum(int(row.get(TOKENS) or 0) for row in results)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": about.model, "usage": usage}, Usage(tokens)


def _form(body: Mapping[str, Any]) -> dict[str, Any]:
    dimensions, encoding = body.get("dimensions"), body.get("encoding_format") or "float"
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise BodyFault("'dimensions' must be an integer of at least 1.", "dimensions")
    if encoding not in ("float", "base64"):
        raise BodyFault("'encoding_format' must be 'float' or 'base64'.", "encoding_format")
    given = {"dimensions": dimensions, "base64": True if encoding == "base64" else None}
    return {name: value for name, value in given.items() if value is not None}


def _written(vector: Any, form: Mapping[str, Any]) -> list[float] | str:
    """Write a vector, shortened to `dimensions` and then of the length that it had, as float32."""
    values = np.asarray(vector, np.float32)
    dimensions = form.get("dimensions")
    if dimensions is not None and dimensions < len(values):
        length, values = np.linalg.norm(values), values[:dimensions]
        values = values * (length / max(float(np.linalg.norm(values)), 1e-30))
    little_endian = values.astype("<f4")
    return base64.b64encode(little_endian.tobytes()).decode() if form.get("base64") else little_endian.tolist()
