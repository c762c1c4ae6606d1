"""Finding a model's weights."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidParams
from batchmill.storage.locations import Locations
from batchmill_worker.models.model_source import fingerprint_files, hub_revision, locate_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package `weights` on the path, whose import fails."""
    package = tmp_path / "weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return package


def model_in(folder: Path, mark: str = "modules.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mark).write_text("{}")
    return folder


def test_a_package_is_searched_without_being_imported(installed: Path) -> None:
    model = model_in(installed / "data" / "model")
    assert locate_model("package:weights", Locations(())) == str(model)
    assert "weights" not in sys.modules


def test_a_complete_model_is_preferred_to_a_bare_transformer(installed: Path) -> None:
    model_in(installed / "bare", "config.json")
    model = model_in(installed / "nested" / "whole")
    model_in(model / "1_Pooling", "config.json")
    assert locate_model("package:weights", Locations(())) == str(model)


def test_a_package_with_two_models_is_refused_naming_both(installed: Path) -> None:
    small, large = model_in(installed / "small"), model_in(installed / "large")
    with pytest.raises(InvalidParams, match="several models") as caught:
        locate_model("package:weights", Locations(()))
    assert str(small) in str(caught.value)
    assert str(large) in str(caught.value)


def test_a_package_without_a_model_is_refused_naming_where_was_searched(installed: Path) -> None:
    with pytest.raises(InvalidParams, match=r"weights contains no model") as caught:
        locate_model("package:weights", Locations(()))
    assert str(installed) in str(caught.value)
    assert "llama.cpp" not in str(caught.value)
    (installed / "model.gguf").touch()
    with pytest.raises(InvalidParams, match=r"contains no model.*weights for llama\.cpp"):
        locate_model("package:weights", Locations(()))


@pytest.mark.parametrize("name", ["", "a.b", "../etc", "a/b", "a b", "__main__", "nothing_of_that_name", "this"])
def test_what_is_no_installed_package_is_refused(name: str) -> None:
    with pytest.raises(InvalidParams, match=f"package:?.*{name}"):
        locate_model(f"package:{name}", Locations(()))


def test_a_folder_without_init_on_the_path_is_no_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_in(tmp_path / "loose")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidParams, match="package loose is not installed"):
        locate_model("package:loose", Locations(()))


def test_a_folder_below_a_root_is_taken_by_path_or_uri(tmp_path: Path) -> None:
    model = model_in(tmp_path / "models" / "mini", "config.json")
    locations = Locations([str(tmp_path)])
    assert locate_model(str(model), locations) == str(model)
    assert locate_model(f"file://{model}", locations) == str(model)


def test_a_folder_outside_the_roots_or_a_link_out_of_them_is_refused(tmp_path: Path) -> None:
    model = model_in(tmp_path / "secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(model)
    for path in (model, root / "link", root / ".." / "secret"):
        with pytest.raises(InvalidParams, match="outside the folders"):
            locate_model(str(path), Locations([str(root)]))


def test_a_folder_that_is_missing_or_holds_no_model_is_named(tmp_path: Path) -> None:
    locations = Locations([str(tmp_path)])
    with pytest.raises(InvalidParams, match=rf"no folder {tmp_path}/gone"):
        locate_model(f"{tmp_path}/gone", locations)
    with pytest.raises(InvalidParams, match=rf"{tmp_path} contains no model: neither modules.json nor config.json"):
        locate_model(str(tmp_path), locations)


def test_a_bucket_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidParams, match="is no folder of the worker's machine"):
        locate_model("s3://bucket/model", Locations(["s3://bucket"]))


@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-m3"])
def test_a_hub_id_stays_as_it_is(model: str) -> None:
    assert locate_model(model, Locations(())) == model


def test_a_hub_id_never_means_a_folder_that_happens_to_be_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_in(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidParams, match="'org/name' is a hub id, but") as caught:
        locate_model("org/name", Locations([str(tmp_path)]))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("model", ["../up", "./here", "a/b/c", "~/models", "with space", "a\\b", ".hidden", "a\n"])
def test_what_fits_no_form_is_refused_naming_the_forms(model: str) -> None:
    with pytest.raises(InvalidParams, match=r"names no model.*hub id.*absolute folder, or package:NAME"):
        locate_model(model, Locations(("/",)))


def test_a_folder_of_other_files_has_another_fingerprint(tmp_path: Path) -> None:
    model = model_in(tmp_path / "model")
    (model / "1_Pooling").mkdir()
    weights = model / "1_Pooling" / "weights"
    weights.write_bytes(b"abc")
    before = fingerprint_files(str(model))
    assert fingerprint_files(str(model)) == before
    weights.write_bytes(b"abcd")
    larger = fingerprint_files(str(model))
    os.utime(weights, ns=(0, 0))
    older = fingerprint_files(str(model))
    (model / "prompts.json").write_text("{}")
    assert len({before, larger, older, fingerprint_files(str(model))}) == 4


@pytest.mark.parametrize("name", ["config.json", "1_Pooling"])
def test_a_link_in_a_folder_of_a_model_leads_out_of_no_root(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    model, shared = root / "model", root / "shared"
    for folder in (model, shared, outside):
        model_in(folder, "config.json")
    locations = Locations([str(root)])
    (model / "inner").symlink_to(shared)
    assert locate_model(str(model), locations) == str(model)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(outside / "config.json" if name == "config.json" else outside)
    with pytest.raises(InvalidParams, match=f"{name}' is outside the folders"):
        locate_model(str(model), locations)


def test_links_are_looked_at_behind_links_too_and_folders_with_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    model, shared = model_in(root / "model", "config.json"), model_in(root / "shared", "config.json")
    (model / "inner").symlink_to(shared)
    (shared / "back").symlink_to(model)
    locations = Locations([str(root)])
    assert locate_model(str(model), locations) == str(model)
    (tmp_path / "secret").touch()
    (shared / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidParams, match="inner/weights' is outside the folders"):
        locate_model(str(model), locations)
    monkeypatch.setattr("batchmill_worker.models.model_source._MAX_ENTRIES", 1)
    with pytest.raises(InvalidParams, match="over 1 files and folders"):
        locate_model(str(model), locations)


def test_a_hub_id_is_identified_by_the_revision_in_the_local_cache(tmp_path: Path) -> None:
    assert fingerprint_files("org/name") == ""
    assert hub_revision("org/name", str(tmp_path)) == ""
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--name"
    model_in(repository / "snapshots" / revision, "config.json")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    assert hub_revision("org/name", str(tmp_path)) == revision


def test_a_hub_id_that_is_not_on_the_list_is_refused() -> None:
    locations = Locations((), hub_models=("acme/*", "intfloat/e5-small"))
    assert [locate_model(model, locations) for model in ("acme/one", "intfloat/e5-small")] == [
        "acme/one",
        "intfloat/e5-small",
    ]
    for model in ("intfloat/e5-large", "gpt2"):
        with pytest.raises(InvalidParams, match="not among those this service may load"):
            locate_model(model, locations)
