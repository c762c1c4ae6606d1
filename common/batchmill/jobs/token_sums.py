"""Tokens of language models, summed over the results of rows: columns that an operator makes are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa


class TokenSums(Frozen):
    """Tokens of prompts, those of them that were computed before, and of answers."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0

    @property
    def total(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt + self.generated

    def write(self) -> str:
        """Return them as the ledger's scripts read them; "": none."""
        return f"{self.prompt} {self.cached} {self.generated}" if self.total else ""

    def __add__(self, other: TokenSums) -> TokenSums:
        return TokenSums(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            generated=self.generated + other.generated,
        )


NO_TOKENS = TokenSums()
COLUMNS = {name: f"{name}_tokens" for name in TokenSums.model_fields}
"""The columns of results that have the tokens of a row."""


def tokens_of(results: pa.Table, made: Collection[str] | None) -> TokenSums:
    """Sum the tokens of results. made: the columns that the operator makes; None: unknown, so nothing is counted."""
    counted = {name: column for name, column in COLUMNS.items() if column in (made or ())}
    if not counted or not set(counted.values()) <= set(results.column_names):
        return NO_TOKENS
    import pyarrow as pa
    import pyarrow.compute as pc

    sums = {
        name: pc.sum(results[column]).as_py() or 0
        for name, column in counted.items()
        if pa.types.is_integer(results.schema.field(column).type)
    }
    return TokenSums(**{name: max(number, 0) for name, number in sums.items()})
