"""`batchmill check` on a job file, and `batchmill search` by a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

CHAIN = """
source = "rows.jsonl"

[[stages]]
operator = "echo"

[[stages]]
operator = "echo"
name = "again"
pool = "gpu"
"""


def test_a_check_names_the_pools_for_which_the_job_would_wait(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "pipe.toml").write_text(CHAIN)
    result = run("check", str(tmp_path / "pipe.toml"))
    assert result.exit_code == 0, result.stderr
    assert "valid; nothing was submitted" in result.stdout
    assert "It would wait: no worker of pool 'gpu' is running" in result.stdout


@pytest.mark.parametrize("vector", ["[1, 2", "[]x", '["a"]', "no-such-file", "7"])
def test_a_vector_that_is_no_list_of_numbers_is_refused_with_what_is_expected(
    run: Callable[..., Result], vector: str
) -> None:
    result = run("search", "cities", "--vector", vector)
    assert result.exit_code == 2
    assert "expected a JSON list of numbers" in result.stderr


def test_a_vector_may_be_given_in_place_or_in_a_file(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "vector.json").write_text("[60, 9]")
    for vector in ("[60, 9]", str(tmp_path / "vector.json")):
        result = run("search", "cities", "--vector", vector)
        assert "no index 'cities'" in result.stderr


def test_a_try_shows_times_as_text(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("one")
    (tmp_path / "pipe.toml").write_text(
        'source = { path = "files", format = "binary" }\n[[stages]]\noperator = "echo"\n'
    )
    result = run("try", str(tmp_path / "pipe.toml"))
    assert "modified_at='20" in result.stdout, result.stderr
    assert "datetime" not in result.stdout
