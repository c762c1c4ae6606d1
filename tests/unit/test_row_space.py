"""What tells results of equal rows apart."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidParams
from batchmill.operators.registration import REGISTRY, operator
from batchmill_worker.row_cache.space import space_of

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.operators.contract import OperatorDefinition


@operator("spaced")
def spaced(rows: list[object], *, mark: str = "!", times: int = 1) -> list[object]:
    """Takes parameters."""
    return [mark * times for _ in rows]


@pytest.fixture
def definition() -> OperatorDefinition:
    found = REGISTRY.get("spaced")
    assert found is not None
    return found


def test_aliases_of_the_same_parameters_share_results(definition: OperatorDefinition) -> None:
    plain = space_of(definition, {}, "")
    assert len(plain) == 16
    assert space_of(definition, {"times": 1, "mark": "!"}, "") == plain
    assert space_of(definition, {"times": "1"}, "") == plain


def test_whatever_results_depend_on_keeps_them_apart(definition: OperatorDefinition) -> None:
    spaces = {
        space_of(definition, {}, ""),
        space_of(definition, {"times": 2}, ""),
        space_of(replace(definition, code="other code"), {}, ""),
        space_of(definition, {}, "other weights"),
        space_of(replace(definition, version="2"), {}, ""),
        space_of(replace(definition, name="other"), {}, ""),
        space_of(replace(definition, expands=True), {}, ""),
    }
    assert len(spaces) == 7


def test_parameters_that_do_not_fit_are_refused(definition: OperatorDefinition) -> None:
    with pytest.raises(InvalidParams):
        space_of(definition, {"tims": 1}, "")


def test_code_is_distinguished_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "import batchmill\n\n\n@batchmill.operator('edited')\ndef edited(rows):\n    return rows\n"
    digests = []
    for text in (source, source, source + "# edited\n"):
        (tmp_path / "edited_operator.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("edited_operator", None)
        importlib.import_module("edited_operator")
        found = REGISTRY.get("edited")
        assert found is not None
        digests.append(found.code)
    assert digests[0] == digests[1] != digests[2]
    assert all(digests)


def test_an_operator_without_a_file_has_no_digest_of_one() -> None:
    source = "@operator('without_a_file')\ndef without_a_file(rows):\n    return rows\n"
    exec(source, {"operator": operator})  # noqa: S102  # the only way to have code without a file
    found = REGISTRY.get("without_a_file")
    assert found is not None
    assert (found.code, found.revision) == ("", "1")
