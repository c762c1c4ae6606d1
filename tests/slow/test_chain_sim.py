"""A thousand seeds of simulated chains over the real scripts and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.chain_sim import run_seeds

if TYPE_CHECKING:
    from pathlib import Path

SEEDS, AT_ONCE = 1_000, 50


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_every_row_of_each_chain_is_in_its_place_once(valkey_url: str, tmp_path: Path, first: int) -> None:
    run_seeds(range(first, first + AT_ONCE), valkey_url, tmp_path)
