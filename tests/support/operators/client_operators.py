"""An operator for tests of what clients submit: it takes parameters of all kinds, and gives back its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import batchmill

if TYPE_CHECKING:
    import pyarrow as pa


@batchmill.operator("anything", batch_format="arrow", batch_size=None)
def anything(
    batch: pa.Table,
    *,
    model: str = "",
    none: str | None = None,
    list: list[Any] | None = None,  # noqa: A002  # parameters may be called so
    n: int = 0,
    e: str = "",
) -> pa.Table:
    """Give back every row as it is."""
    _ = model, none, list, n, e
    return batch
