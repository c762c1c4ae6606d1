"""`echo`: returns its rows. For trying a deployment, and for measuring what Batchmill itself costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.operators.registration import operator

if TYPE_CHECKING:
    import pyarrow as pa


@operator("echo", makes=[], batch_format="arrow", batch_size=None)
def echo(batch: pa.Table) -> pa.Table:
    """Return every row unchanged."""
    return batch
