"""Compares backends on a few rows: how far their outputs are from those of torch in float32, and how long they take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from batchmill.jobs.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from batchmill_worker.backends.base import Backend

ROUNDS = 3


class Check(Frozen):
    """The result of a comparison with torch in float32."""

    worst_cosine: float  # of a row of outputs
    torch_s: float  # for the sample
    backend_s: float

    @property
    def gain(self) -> float:
        """How many times as fast as torch it is."""
        return self.torch_s / max(self.backend_s, 1e-9)


def compare(torch: Backend, backend: Backend, samples: Sequence[Mapping[str, Any]]) -> Check:
    """Run both on the same batches, in turns, and compare their outputs and their fastest rounds."""
    expected = [torch.forward(sample).numpy() for sample in samples]
    found = [backend.forward(sample).numpy() for sample in samples]
    cosine = min(worst_cosine(one, other) for one, other in zip(expected, found, strict=True))
    seconds = [[_seconds(each, samples) for each in (torch, backend)] for _ in range(ROUNDS)]
    fastest = [min(rounds) for rounds in zip(*seconds, strict=True)]
    return Check(worst_cosine=cosine, torch_s=fastest[0], backend_s=fastest[1])


def worst_cosine(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Return the smallest cosine between corresponding rows; -1 if shapes differ or a number is not finite.

    Outputs of one number a row are compared as one vector.
    """
    if expected.shape != found.shape or not np.isfinite(found).all():
        return -1.0
    rows, others = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, found))
    if rows.shape[1] == 1:
        rows, others = rows.T, others.T
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return float(((rows * others).sum(1) / np.maximum(norms, 1e-30)).min())


def _seconds(backend: Backend, samples: Sequence[Mapping[str, Any]]) -> float:
    began = time.perf_counter()
    for sample in samples:
        backend.forward(sample)
    return time.perf_counter() - began
