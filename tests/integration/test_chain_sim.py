"""Some seeds of simulated chains over the real scripts and roles; `tests/slow` runs a thousand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.chain_sim import run_seeds

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_of_a_chain_is_in_its_place_once(valkey_url: str, tmp_path: Path, seed: int) -> None:
    run_seeds([seed], valkey_url, tmp_path)
