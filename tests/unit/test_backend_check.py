"""How backends are compared: by the worst row, and by their fastest rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from batchmill.operators.contract import BackendInfo
from batchmill_worker.backends.check import Check, compare, worst_cosine
from batchmill_worker.backends.selection import objection

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stand:
    """A backend that returns its input times a factor."""

    def __init__(self, factor: float) -> None:
        self.info = BackendInfo(name="stand", precision="float32")
        self._factor = factor

    def forward(self, features: Mapping[str, Any]) -> torch.Tensor:
        outputs: torch.Tensor = features["x"] * self._factor
        return outputs

    def memory_bytes(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[1.0, 0.0], [0.0, 2.0]], 1.0),
        ([[1.0, 0.0], [2.0, 0.0]], 0.0),  # one good row does not make up for a bad one
        ([[1.0, 0.0], [0.0, float("nan")]], -1.0),
        ([[1.0, 0.0]], -1.0),
    ],
)
def test_the_worst_row_counts(found: list[list[float]], expected: float) -> None:
    assert worst_cosine(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array(found)) == pytest.approx(expected)


def test_scores_of_one_number_are_compared_as_one_vector() -> None:
    assert worst_cosine(np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]])) == pytest.approx(1)
    assert worst_cosine(np.array([[1.0], [2.0]]), np.array([[2.0], [1.0]])) == pytest.approx(0.8)


def test_all_samples_are_compared_and_timed() -> None:
    samples = [{"x": torch.tensor([[1.0, 2.0]])}, {"x": torch.tensor([[3.0, 4.0], [5.0, 6.0]])}]
    check = compare(Stand(1.0), Stand(2.0), samples)
    assert check.worst_cosine == pytest.approx(1)
    assert check.torch_s > 0
    assert check.backend_s > 0
    assert compare(Stand(1.0), Stand(-1.0), samples).worst_cosine == pytest.approx(-1)


def test_auto_takes_a_backend_that_is_exact_and_faster() -> None:
    good = Check(worst_cosine=0.99999, torch_s=2.0, backend_s=1.0)
    assert objection(good, "float32") == ""
    assert "differs" in objection(good.model_copy(update={"worst_cosine": 0.9998}), "float32")
    assert objection(good.model_copy(update={"worst_cosine": 0.9998}), "bfloat16") == ""
    assert "not faster" in objection(good.model_copy(update={"backend_s": 1.95}), "float32")
