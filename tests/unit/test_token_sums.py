"""Tokens of results, as a commit counts them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from batchmill.jobs.cost import NANO, Parts, Spent, job_cost
from batchmill.jobs.status import NO_TOKENS, TokenSums
from batchmill.wording import tokens
from batchmill_worker.slot.attempt.token_columns import COLUMNS, tokens_of

TABLE = pa.table({"prompt_tokens": [3, None, 4], "cached_tokens": [1, 0, 0], "generated_tokens": [5, 6, 7]})
SUMS = TokenSums(prompt=7, cached=1, generated=18)


def test_the_columns_that_an_operator_makes_are_summed() -> None:
    assert tokens_of(TABLE, ("text", *COLUMNS.values())) == SUMS
    assert tokens_of(TABLE, ("prompt_tokens",)) == TokenSums(prompt=7)
    assert tokens_of(TABLE.slice(0, 0), COLUMNS.values()) == NO_TOKENS


@pytest.mark.parametrize("made", [None, (), ("text",)])
def test_a_column_that_was_passed_through_counts_nothing(made: tuple[str, ...] | None) -> None:
    assert tokens_of(TABLE, made) == NO_TOKENS


def test_columns_of_another_type_count_nothing() -> None:
    assert tokens_of(pa.table({"prompt_tokens": ["3"]}), ("prompt_tokens",)) == NO_TOKENS


def test_a_cost_has_its_price_of_a_million_tokens() -> None:
    spent = Spent(nano=Parts(useful=2 * NANO))

    assert job_cost({0: spent}, None, "USD", SUMS.total).per_million_tokens == pytest.approx(2 / 25 * 1e6)
    assert job_cost({0: spent}, None, "USD").per_million_tokens is None


def test_tokens_are_shown_with_those_that_were_cached() -> None:
    assert tokens(SUMS + SUMS) == "14 prompt tokens (2 cached), 36 generated"
    assert tokens(TokenSums(prompt=1200)) == "1,200 prompt tokens, 0 generated"
    assert tokens(None) == ""
