"""Results as data frames of libraries that Batchmill does not depend on."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from batchmill.errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


def require(library: str) -> None:
    """Raise `MissingExtra` if a library is not installed: before any result is fetched."""
    if find_spec(library) is None:
        raise MissingExtra(
            f"the results as a {library} data frame need {library}, which is not installed.",
            hint=f"Install it with: pip install {library}. `to_table()` needs nothing else.",
        )


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Convert a table."""
    return table.to_pandas()


def to_polars(table: pa.Table) -> pl.DataFrame:
    """Convert a table, without a copy where Polars shares Arrow's layout."""
    import polars

    return cast("pl.DataFrame", polars.from_arrow(table))
