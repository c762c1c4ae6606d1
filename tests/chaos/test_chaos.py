"""A minute of chaos each, with blobs on disk and in a bucket: whatever breaks, every row is there once."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING

import click
import pytest

from chaos.run import chaos, summary

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 60.0


@pytest.mark.parametrize("in_bucket", [False, True], ids=["on disk", "in a bucket"])
def test_no_row_is_lost_doubled_or_wrong_whatever_breaks(tmp_path: Path, *, in_bucket: bool) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    click.echo(f"seed {seed}: run it again with SEED={seed} make chaos-short")
    report = chaos(seed, SECONDS, tmp_path, in_bucket=in_bucket)
    (tmp_path / "report.json").write_text(json.dumps(report, indent=1))
    click.echo(summary(report))
    assert report["holds"], summary(report)
    assert report["jobs"] >= 3
    assert len(report["faults"]) >= 8
