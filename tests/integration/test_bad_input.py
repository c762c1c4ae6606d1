"""Bad input: one clear error that names the thing and says what to do, and nothing is stored."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchmill
from batchmill.errors import (
    InvalidOutput,
    InvalidParams,
    InvalidRequest,
    InvalidRows,
    InvalidSource,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
    UnknownOperator,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROW = [{"id": 1, "text": "a"}]


@pytest.fixture(autouse=True)
def _nothing_is_stored(client: batchmill.Client) -> Iterator[None]:
    before = [status.id for status in client.jobs()]
    yield
    assert [status.id for status in client.jobs()] == before


def refuse(client: batchmill.Client, kind: type[Exception], *named: str, **request: Any) -> None:
    request = {"operator": "echo", **({} if "source" in request else {"rows": ROW}), **request}
    with pytest.raises(kind) as caught:
        client.submit(**request)
    for word in named:
        assert word in str(caught.value)


def test_an_unknown_operator_is_answered_with_the_nearest_names(client: batchmill.Client) -> None:
    refuse(client, UnknownOperator, "'shuot'", "Did you mean 'shout'?", operator="shuot")


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"mrak": "?"}, ["no parameter 'mrak'", "Did you mean 'mark'?"]),
        ({"times": "two"}, ["'times'", "integer", '"two"']),
        ({"times": 9}, ["'times'", "at most 3", "9"]),
    ],
)
def test_parameters_of_a_wrong_name_type_or_value_are_named(
    client: batchmill.Client, params: dict[str, Any], named: list[str]
) -> None:
    refuse(client, InvalidParams, *named, operator="shout", params=params)


def test_a_missing_parameter_is_named(client: batchmill.Client) -> None:
    refuse(client, InvalidParams, "'model'", "missing", operator="embed")


def test_a_source_that_is_missing_empty_or_unreadable_is_named(client: batchmill.Client, tmp_path: Path) -> None:
    refuse(client, InvalidSource, "none.jsonl", source=tmp_path / "none.jsonl")
    refuse(client, InvalidSource, str(tmp_path), source=tmp_path)
    refuse(client, InvalidSource, "*.csv", source=f"{tmp_path}/*.csv")
    (tmp_path / "no.parquet").write_bytes(b"no parquet at all")
    refuse(client, InvalidSource, "no.parquet", source=tmp_path / "no.parquet")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1}\n' * 10_000)[:-20])
    refuse(client, InvalidSource, "cut.jsonl.gz", source=tmp_path / "cut.jsonl.gz")


def test_a_broken_line_is_named_with_its_file_and_line(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": 1}\n{"id": 2}\n{"id": oops}\n')
    refuse(client, InvalidSource, "x.jsonl", "line 3", source=tmp_path / "x.jsonl")


def test_a_file_that_changes_its_schema_half_way_is_named_with_its_line(
    client: batchmill.Client, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": 1}\n' * 500 + '{"id": "five hundred"}\n')
    refuse(client, InvalidSource, "x.jsonl", "line 501", "id", source=tmp_path / "x.jsonl")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "b.parquet")
    refuse(client, InvalidSource, "b.parquet", "id", "string", source=f"{tmp_path}/*.parquet")


def test_a_required_column_that_is_missing_is_named(client: batchmill.Client) -> None:
    refuse(client, InvalidRows, "row 0", "'text'", operator="shout", rows=[{"id": 1}])


def test_a_column_to_carry_that_is_not_there_is_named(client: batchmill.Client) -> None:
    refuse(client, InvalidRequest, "'txet'", "Did you mean 'text'?", carry=["txet"])


def test_rows_whose_types_differ_are_named(client: batchmill.Client) -> None:
    refuse(client, InvalidRows, "row 1", "'id'", rows=[{"id": 1}, {"id": "one"}])


def test_rows_and_a_source_or_neither_are_refused(client: batchmill.Client) -> None:
    refuse(client, InvalidRequest, "rows", "source", rows=ROW, source="/tmp/x.jsonl")  # noqa: S108  # never opened
    refuse(client, InvalidRequest, "rows", "source", rows=None)


def test_an_output_folder_that_holds_something_else_is_refused(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refuse(client, InvalidOutput, str(tmp_path), "thesis.tex", output=tmp_path)
    refuse(client, InvalidOutput, "thesis.tex", output=tmp_path / "thesis.tex")


def test_a_refused_job_leaves_no_output_folder_behind(client: batchmill.Client, tmp_path: Path) -> None:
    refuse(client, UnknownOperator, operator="nope", output=tmp_path / "out")
    refuse(client, InvalidRows, operator="shout", rows=[{"id": 1}], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_job_is_named(client: batchmill.Client) -> None:
    with pytest.raises(NotFound, match="job-none"):
        client.job("job-none").status()


def test_a_wrong_token_is_told_without_showing_it(service_record: dict[str, str]) -> None:
    with batchmill.Client(service_record["url"], "not-the-token") as stranger, pytest.raises(Unauthorized) as caught:
        stranger.jobs()
    assert "not-the-token" not in str(caught.value)


def test_a_service_that_is_not_there_is_named() -> None:
    with (
        batchmill.Client("http://127.0.0.1:9", "t") as client,
        pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:9"),
    ):
        client.jobs()
