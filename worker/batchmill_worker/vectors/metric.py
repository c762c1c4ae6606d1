"""How the distance of two vectors is measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    import numpy.typing as npt

Metric = Annotated[
    Literal["cosine", "l2", "dot"],
    Field(
        description="How distances are measured. cosine: 1 minus the cosine of the angle; l2: Euclidean; dot: minus "
        "the product."
    ),
]


def distances_of(scores: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Return the distances that scores mean, see `close_pairs`."""
    if metric == "l2":
        return np.sqrt(np.maximum(-2 * scores, 0), dtype=np.float32)
    return np.asarray(np.maximum(1 - scores, 0) if metric == "cosine" else -scores, dtype=np.float32)


def score_of(distance: float | None, metric: str) -> float:
    """Return the least score of what is as near as a distance; of None minus infinity."""
    if distance is None:
        return -math.inf
    return {"l2": -(distance**2) / 2, "cosine": 1 - distance, "dot": -distance}[metric]
