"""Converted models on disk: each is made once, is complete or absent, and old ones go when there are too many."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from batchmill_worker.backends.converted_models import ConvertedModels, key_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = key_of(["a model"])
KILLED = """
import sys
from pathlib import Path
from batchmill_worker.backends.converted_models import ConvertedModels

def make(folder):
    (folder / "half").write_text("half")
    print("making", flush=True)
    sys.stdin.read()

with ConvertedModels(Path(sys.argv[1]), 1000).entry(sys.argv[2], make):
    pass
"""


def fill(folder: Path) -> None:
    (folder / "model").write_text("x" * 100)


def refuse(folder: Path) -> None:
    raise AssertionError(f"{folder} is made again")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith("lock-")}


def test_an_entry_is_made_once_however_many_ask_for_it_at_once(tmp_path: Path) -> None:
    made: list[Path] = []
    begin = threading.Barrier(4)

    def make(folder: Path) -> None:
        made.append(folder)
        fill(folder)

    def ask(_: int) -> str:
        begin.wait()
        with ConvertedModels(tmp_path, 1000).entry(KEY, make) as folder:
            return (folder / "model").read_text()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == ["x" * 100] * 4
    assert len(made) == 1
    assert names(tmp_path) == {KEY}


def test_what_could_not_be_made_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("no conversion")

    models = ConvertedModels(tmp_path, 1000)
    with pytest.raises(ValueError, match="no conversion"), models.entry(KEY, fail):
        pass
    assert names(tmp_path) == set()
    with models.entry(KEY, fill) as folder:
        assert (folder / "model").exists()
    with models.entry(KEY, refuse):
        pass


def test_a_process_that_is_killed_while_it_makes_an_entry_leaves_neither_lock_nor_half(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), KEY]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "making\n"
        process.kill()
    assert len(names(tmp_path)) == 1
    with ConvertedModels(tmp_path, 1000).entry(KEY, fill):
        assert names(tmp_path) == {KEY}


def test_the_least_recently_used_go_when_there_are_too_many_bytes_but_none_that_is_in_use(tmp_path: Path) -> None:
    models = ConvertedModels(tmp_path, 250)
    first, second, third, fourth = (f"{number}" * 32 for number in range(4))
    for age, key in ((300, first), (200, second)):
        with models.entry(key, fill) as folder:
            pass
        os.utime(folder, (folder.stat().st_mtime - age,) * 2)
    with models.entry(first, refuse), models.entry(third, fill):
        assert names(tmp_path) == {first, third}
    with models.entry(third, refuse), models.entry(fourth, fill):
        assert names(tmp_path) == {third, fourth}


def test_an_entry_that_is_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    models = ConvertedModels(tmp_path, 50)
    for key in ("0" * 32, "1" * 32):
        with models.entry(key, fill):
            assert names(tmp_path) == {key}


def test_without_a_usable_folder_entries_are_temporary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    for models in (ConvertedModels(), ConvertedModels(tmp_path, 0), ConvertedModels(tmp_path / "file" / "below", 1000)):
        with models.entry(KEY, fill) as folder:
            assert (folder / "model").exists()
        assert not folder.exists()
        assert not models.has(KEY)
    assert names(tmp_path) == {"file"}
    assert "cannot be used" in caplog.text


def test_a_dropped_entry_is_made_again(tmp_path: Path) -> None:
    models = ConvertedModels(tmp_path, 1000)
    with models.entry(KEY, fill):
        pass
    assert models.has(KEY)
    models.drop(KEY)
    assert not models.has(KEY)
