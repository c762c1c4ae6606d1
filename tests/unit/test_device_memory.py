"""What is known of a GPU's memory while torch does not use it: an operator may do without torch."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest

from batchmill_worker.runtime.device import memory_of

IDLE = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True, is_initialized=lambda: False))


@pytest.mark.parametrize("torch", [None, IDLE], ids=["not imported", "not in use"])
def test_nothing_is_known_and_nothing_fails_until_torch_is_in_use(
    torch: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    memory = memory_of("cuda:0")
    memory.begin()
    assert (memory.peak_bytes(), memory.limit_bytes()) == (None, math.inf)
