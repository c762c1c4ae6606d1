"""Patterns that multiply: each folder is looked at once for each part of a pattern."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from support.attack import Mill

STOP_S = 20.0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """15 folders, each inside the one before, with 3 files each."""
    folder = tmp_path
    for depth in range(15):
        folder = folder / f"d{depth}"
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.jsonl").write_text('{"id": 1}\n')
    return tmp_path


@pytest.mark.parametrize("pattern", ["/**" * 12 + "/nomatch", "/**/*" * 12 + "/nomatch", "/**/d*" * 8 + "/**/nomatch"])
def test_many_requests_with_many_wildcards_are_answered_and_health_too(mill: Mill, tree: Path, pattern: str) -> None:
    with mill.healthy(), ThreadPoolExecutor(40) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: mill.submit(source={"path": f"{tree}{pattern}"}), range(40)))
        took = time.monotonic() - started
    assert {(answer.status, answer.code) for answer in answers} == {(422, "invalid_source")}
    assert took < 60


def test_a_glob_finds_each_file_once_however_often_it_matches(mill: Mill, tree: Path) -> None:
    answer = mill.submit(source={"path": f"{tree}/**/**/**/*.jsonl"})
    job = mill.cluster.clients["a"].job(answer.json["id"])
    job.wait(timeout=60)
    assert job.status().rows_done == 45


def test_a_link_cycle_below_a_recursive_glob_ends(mill: Mill, tree: Path) -> None:
    (tree / "d0" / "d1" / "back").symlink_to(tree)
    answer = mill.submit(source={"path": f"{tree}/**/*.jsonl"})
    job = mill.cluster.clients["a"].job(answer.json["id"])
    job.wait(timeout=60)
    assert job.status().rows_done == 45
