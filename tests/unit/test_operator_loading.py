"""Importing the modules that register operators."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidOperator
from batchmill.jobs.sink import PUBLISH_OPERATOR, SEARCH_OPERATOR, STORE_OPERATOR
from batchmill.operators.registration import OperatorRegistry, operator
from batchmill_worker.slot.loading import load_operators

if TYPE_CHECKING:
    from pathlib import Path

BUILT_IN = (
    "chat",
    "chunk",
    "classify",
    "dedup",
    "echo",
    "embed",
    "embed_spans",
    "gather",
    "generate",
    "knn",
    "parse",
    "rerank",
    "similarity",
    "window",
)

MODULE = """
from batchmill.operators.registration import operator

@operator("{name}")
def {name}(rows):
    return rows
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; what is imported or registered here is forgotten afterwards."""
    load_operators()  # the built-in ones belong to the process's own registry
    registry = OperatorRegistry()
    monkeypatch.setattr(sys.modules[operator.__module__], "REGISTRY", registry)
    monkeypatch.setattr("batchmill_worker.slot.loading.REGISTRY", registry)
    monkeypatch.setattr("batchmill_worker.slot.loading.entry_points", lambda group: [])  # noqa: ARG005  # its signature
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_in_the_current_folder_is_loaded_by_name(folder: Path) -> None:
    (folder / "my_module.py").write_text(MODULE.format(name="mine"))
    registry = load_operators(["my_module"])
    assert [definition.name for definition in registry] == ["mine"]


def test_loading_a_module_again_finds_its_operators_still_there(folder: Path) -> None:
    (folder / "my_module.py").write_text(MODULE.format(name="mine"))
    load_operators(["my_module"])
    assert load_operators(["my_module", "my_module"]).get("mine") is not None


def test_a_package_counts_the_operators_of_the_modules_it_imports(folder: Path) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("from pack import inner\n")
    (folder / "pack" / "inner.py").write_text(MODULE.format(name="inner"))
    load_operators(["pack"])
    assert load_operators(["pack"]).get("inner") is not None


def test_a_module_that_is_not_there_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    with pytest.raises(InvalidOperator) as caught:
        load_operators(["my_modul"])
    assert "module 'my_modul'" in str(caught.value)
    assert f"no module 'my_modul' in {folder}" in str(caught.value)


def test_a_module_that_lacks_a_dependency_names_the_dependency(folder: Path) -> None:
    (folder / "needy.py").write_text("import not_installed_at_all\n")
    with pytest.raises(InvalidOperator, match="It imports 'not_installed_at_all': install that"):
        load_operators(["needy"])


@pytest.mark.parametrize("code", ["1 / 0", "def broken(:", "raise SystemExit(3)"])
def test_a_module_that_fails_to_import_is_named_with_the_exception(folder: Path, code: str) -> None:
    (folder / "broken.py").write_text(code)
    with pytest.raises(InvalidOperator, match=r"module 'broken'.*(ZeroDivisionError|SyntaxError|SystemExit): "):
        load_operators(["broken"])


def test_a_module_that_registers_nothing_is_refused(folder: Path) -> None:
    (folder / "idle.py").write_text("def sentiment(rows): return rows\n")
    with pytest.raises(InvalidOperator, match=r"'idle'.*registers no operator.*@batchmill.operator"):
        load_operators(["idle"])


@pytest.mark.parametrize("name", ["my_module.py", "path/to/module", "", "a-b"])
def test_what_is_no_module_name_is_refused_with_the_right_form(name: str) -> None:
    with pytest.raises(InvalidOperator, match=r"is no module name.*without \.py"):
        load_operators([name])


def test_an_operator_that_breaks_the_contract_is_reported_unchanged(folder: Path) -> None:
    code = MODULE.format(name="mine").replace("(rows)", "()")
    (folder / "my_module.py").write_text(code)
    with pytest.raises(InvalidOperator, match="'mine': mine takes no batch"):
        load_operators(["my_module"])


def test_the_built_in_operators_are_found_without_importing_a_model_library() -> None:
    code = (
        "import sys; from batchmill_worker.slot.loading import load_operators;"
        f"print([d.name for d in load_operators({[f'batchmill_worker.operators.{name}' for name in BUILT_IN]})]);"
        "models = {'torch', 'transformers', 'sentence_transformers', 'tokenizers', 'regex', 'xllamacpp'};"
        "print((models | {'aiohttp', 'jsonschema'}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {STORE_OPERATOR, PUBLISH_OPERATOR, SEARCH_OPERATOR, "knn_join", "signature"}
    assert done.stdout.splitlines() == [str(sorted({*BUILT_IN, *own})), "set()"]
