"""What parameters name: columns of the input, and tables, whose version is pinned when a job is submitted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import lance
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams
from batchmill.operators.named_params import NamedTable, columns_named, jobs_named, results_named, tables_named
from batchmill.sources.describing import compared_table
from batchmill.storage.locations import Locations
from batchmill_coordinator.admission.tables import with_pinned_tables
from support.language_models import definition_of
from support.records import spec_of

if TYPE_CHECKING:
    from pathlib import Path


def schema_of(operator: str) -> dict[str, Any]:
    return definition_of(operator).announcement().params_schema


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"prompt": "Sum up {title}: {body}, {{not}}"}, ["title", "body"]),
        ({"prompt": "{body}", "system": "In {language}", "options": "own"}, ["body", "language", "own"]),
        ({"messages": "chat"}, ["chat"]),
        ({"prompt": "{broken"}, []),
        ({"prompt": "{a:>3} {b!r} {}"}, []),
    ],
)
def test_columns_are_those_of_templates_and_of_parameters_that_name_one(
    params: dict[str, Any], expected: list[str]
) -> None:
    assert sorted(column for column, _ in columns_named(schema_of("chat"), params)) == sorted(expected)


def test_a_table_has_the_columns_that_other_parameters_name() -> None:
    assert columns_named(schema_of("knn"), {"base": "b", "key": "id"}) == [("id", "key")]
    assert tables_named(schema_of("knn"), {"base": "b"}) == [
        NamedTable("base", "b", "version", None, [("embedding", "vector")])
    ]
    params = {"base": "b", "version": 3, "base_vector": "v", "columns": ["id", "n"], "key": "id"}
    assert tables_named(schema_of("knn"), params) == [
        NamedTable(
            "base", "b", "version", 3, [("v", "base_vector"), ("id", "columns"), ("n", "columns"), ("id", "key")]
        )
    ]
    assert tables_named(schema_of("echo"), {}) == []


def test_results_of_a_job_are_named_by_the_job_and_perhaps_a_stage() -> None:
    assert results_named("/data/job:1.parquet") is None
    assert results_named("job:job-1") == ("job-1", None)
    assert results_named("job:job-1/embed") == ("job-1", "embed")
    assert jobs_named({"base": "job:job-1/embed", "k": 3, "vector": "embedding"}) == ["job-1"]


def no_results(named: Any) -> list[str]:
    raise AssertionError(named)


class Direct:
    """Looks tables up in this process."""

    def __init__(self, root: Path) -> None:
        self._locations = Locations([str(root)])

    def look_up_table(self, base: str, version: int | None) -> compared_table.TableFacts:
        return compared_table.facts_of(base, version, self._locations)


def test_the_newest_version_is_pinned_unless_one_is_given(tmp_path: Path) -> None:
    to = str(tmp_path / "base.lance")
    for mode in ("create", "append"):
        lance.write_dataset(pa.table({"id": ["a"], "embedding": [[1.0, 2.0]]}), to, mode=mode)
    inspector, operators = cast("Any", Direct(tmp_path)), [definition_of("knn").announcement()]
    for given, expected in ((None, 2), (1, 1)):
        spec = spec_of(operator="knn", params={"base": to} | ({} if given is None else {"version": given}))
        pinned = with_pinned_tables(spec, operators, inspector, no_results)
        assert pinned.first.params == {"base": to, "version": expected}
    spec = spec_of(operator="knn", params={"base": to, "columns": ["idd"]})
    with pytest.raises(InvalidParams, match="'columns' names the column 'idd'"):
        with_pinned_tables(spec, operators, inspector, no_results)


def test_without_the_library_a_table_of_lance_is_left_to_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    spec = spec_of(operator="knn", params={"base": str(tmp_path / "base.lance")})
    inspector = cast("Any", Direct(tmp_path))
    assert with_pinned_tables(spec, [definition_of("knn").announcement()], inspector, no_results) == spec
