"""What is between two stages is deleted once nobody needs it, half a minute after the end of its job."""

from __future__ import annotations

import json
import os
from pathlib import Path

from click.testing import CliRunner

import batchmill
from batchmill import Stage
from batchmill.cli import main
from support.waiting import GRACE_S, until


def test_results_between_stages_are_deleted_unless_they_are_kept(tmp_path: Path) -> None:
    with batchmill.local(data_dir=tmp_path) as client:
        rows = [{"id": n, "text": "word " * 100} for n in range(3_000)]  # too much to be kept in the ledger
        stages = [Stage("echo", name="a"), Stage("echo", name="b", keep=True), Stage("echo", name="c")]
        job = client.submit(rows=rows, stages=stages, fuse=False).wait(GRACE_S)

        def left() -> set[str]:
            folders = [
                Path(folder) for folder, _, files in os.walk(tmp_path / "blobs") if files
            ]  # some vanish meanwhile
            return {folder.name for folder in folders if folder.parent.parts[-2:] == (job.id, "results")}

        until(lambda: left() == {"1", "2"}, "the deletion of what is between stages")
        assert [row["id"] for row in job.stage("b").peek(3)] == [0, 1, 2]
        assert job.stage("a").peek() == []
        record = json.loads((tmp_path / "service.json").read_text())
        options = ["--url", record["url"], "--token", record["token"]]
        printed = CliRunner().invoke(main, ["peek", job.id, "--stage", "a", *options])
        assert (printed.exit_code, printed.stdout) == (0, "")
        assert "no results of stage a are there now" in printed.stderr
