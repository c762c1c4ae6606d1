"""A minute of chaos: whatever breaks, every row is there once."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING

import click

from chaos.run import chaos, summary

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0


def test_no_row_is_lost_doubled_or_wrong_whatever_breaks(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    click.echo(f"seed {seed}: run it again with SEED={seed} make chaos-short")
    report = chaos(seed, SECONDS, tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(report, indent=1))
    click.echo(summary(report))
    assert report["holds"], summary(report)
    assert report["jobs"] >= 3
    assert len(report["faults"]) >= 8
