"""Job files: the options of `submit` in TOML or JSON, and values that are set in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchmill import RetryPolicy, Stage
from batchmill.client.submitting.job_file import read_job_file
from batchmill.client.submitting.stage import parse_size
from batchmill.client.submitting.submission import make_spec
from batchmill.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

TOML = """
source = "in/*.parquet"
output = { path = "out", format = "jsonl" }
retry = { max_attempts = 7 }

[[stages]]
operator = "chunk"
params = { size = 200 }
buffer = "2MiB"

[[stages]]
operator = "embed"
name = "vectors"
pool = "gpu"
params = { model = "a" }
"""


def written(folder: Path, text: str, name: str = "pipe.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def forms(stages: Any) -> list[Any]:
    return [stage.form for stage in stages]


def test_a_file_has_the_options_of_submit_and_its_paths_start_at_its_folder(tmp_path: Path) -> None:
    options = read_job_file(written(tmp_path, TOML))
    assert options["source"] == str(tmp_path / "in/*.parquet")
    assert options["output"] == {"path": str(tmp_path / "out"), "format": "jsonl"}
    assert options["retry"] == RetryPolicy(max_attempts=7)
    expected = [Stage("chunk", size=200, buffer=2 * 1024 * 1024), Stage("embed", name="vectors", pool="gpu", model="a")]
    assert forms(options["stages"]) == forms(expected)


def test_a_file_may_have_a_deadline_and_waits_as_text(tmp_path: Path) -> None:
    text = f'deadline = "2h"\nretry = {{ backoff_s = "500ms" }}\n{TOML.replace("retry = { max_attempts = 7 }", "")}'
    options = read_job_file(written(tmp_path, text))
    assert make_spec(None, options).deadline == 7200
    assert options["retry"] == RetryPolicy(backoff_s=0.5)


def test_json_of_the_same_form_is_the_same(tmp_path: Path) -> None:
    document = {"source": "s3://bucket/in", "stages": [{"operator": "echo", "cache": True}]}
    options = read_job_file(written(tmp_path, json.dumps(document), "pipe.json"))
    assert options["source"] == "s3://bucket/in"
    assert forms(options["stages"]) == forms([Stage("echo", cache=True)])


def test_values_are_set_by_their_place(tmp_path: Path) -> None:
    changes = [("chunk.params.size", 9), ("vectors.pool", "cpu"), ("source.limit", 5), ("name", "mine")]
    options = read_job_file(written(tmp_path, TOML), changes)
    assert [form.params for form in forms(options["stages"])] == [{"size": 9}, {"model": "a"}]
    assert forms(options["stages"])[1].pool == "cpu"
    assert options["source"] == {"path": str(tmp_path / "in/*.parquet"), "limit": 5}
    assert options["name"] == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source = ", "pipe.toml is not valid TOML: "),
        (
            "source = 'x'\noperator = 'echo'",
            "unknown key 'operator'. An operator and its options are in a table [[stages]]",
        ),
        ("[[stages]]\noperator='echo'\nwidth=3", "Parameters of the operator are in params"),
        ("retry = {max_tries = 1}\n[[stages]]\noperator='echo'", "retry: unknown field 'max_tries'."),
        ("source = 'x'", "stages: expected at least one table"),
        ("stages = 3", "stages: expected at least one table"),
        ("sources = 'x'\n[[stages]]\noperator='echo'", "unknown key 'sources'. Did you mean 'source'"),
        ("[[stages]]\nname='echo'", "stage 0: expected a table with an `operator`"),
        ("[[stages]]\noperator='echo'\npools='x'", "unknown key 'pools'. Did you mean 'pool'"),
        ("[[stages]]\noperator='echo'\nparams=3", "params: expected a table"),
        ("[[stages]]\noperator='echo'\nbuffer='much'", "expected a number of bytes"),
        ("[[stages]]\noperator='echo'\npool='a b'", "stage 'echo': pool"),
        ("retry = {max_attempts = 0}\n[[stages]]\noperator='echo'", "retry"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_job_file(written(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_job_file(tmp_path / "none.toml")
    with pytest.raises(InvalidRequest, match="more than"):
        read_job_file(written(tmp_path, "#" * 2_000_000))


def test_a_file_with_another_ending_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"A job file ends in \.toml or \.json"):
        read_job_file(written(tmp_path, '{"id": 1}', "rows.jsonl"))


def test_a_stage_that_the_file_lacks_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"no stage 'vector'\. Did you mean 'vectors'"):
        read_job_file(written(tmp_path, TOML), [("vector.params.model", "b")])


def test_a_place_that_is_no_table_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such place"):
        read_job_file(written(tmp_path, TOML), [("vectors.pool.size", 1)])


@pytest.mark.parametrize(("text", "size"), [(17, 17), ("17", 17), ("256MiB", 2**28), ("1.5 GB", 1_500_000_000)])
def test_sizes_are_numbers_of_bytes_or_text_with_a_unit(text: Any, size: int) -> None:
    assert parse_size(text) == size
