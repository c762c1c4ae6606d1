"""An operator for tests of what clients submit: it takes parameters of all kinds, and gives back its rows."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003  # the contract reads the annotations
from typing import Any

import pyarrow as pa  # noqa: TC002  # read when it runs

import batchmill


@batchmill.operator("anything", batch_format="arrow", batch_size=None)
def anything(
    batch: pa.Table,
    *,
    model: str = "",
    none: str | None = None,
    list: Sequence[Any] | None = None,  # noqa: A002  # parameters may be called so
    l: Sequence[Any] | None = None,  # noqa: E741  # any name may be one of a parameter
    n: int = 0,
    e: str = "",
) -> pa.Table:
    """Give back every row as it is."""
    _ = model, none, list, l, n, e
    return batch
