"""The models that a service answers for: their file, and how the command line names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.cli.up import refuse_unknown_operators
from batchmill.errors import InvalidSettings, UnknownOperator
from batchmill.storage.locations import Locations
from batchmill.storage.served_models import ServedModel, ServedModels, may_be_named, parse_model

if TYPE_CHECKING:
    from pathlib import Path

TOML = """
[minilm]
operator = "embed"
params = { model = "package:gt" }

["acme/own"]
operator = "mine"
pool = "gpu"
kind = "chat"
"""


def test_a_file_names_models_and_the_built_in_ones_have_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(TOML)
    served = ServedModels.load(str(path))
    assert list(served.models) == ["minilm", "acme/own"]
    assert served.get("minilm") == ServedModel(operator="embed", params={"model": "package:gt"})
    assert [model.answers for model in served.models.values()] == ["embeddings", "chat"]
    assert served.created_at == int(path.stat().st_mtime)
    assert ServedModels.load("").models == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[a]\noperator = 'x'\ncolour = 1", "a.colour"),
        ("[a]\npool = 'x'", "a.operator"),
        ("['a b']\noperator = 'x'", "'a b'"),
        ("[a", "models.toml"),
        ("[a]\noperator = 'x'\nkind = 'other'", "a.kind"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match="BATCHMILL_MODELS") as caught:
        ServedModels.load(str(path))
    assert named in str(caught.value)


def test_a_model_is_named_in_one_word() -> None:
    assert parse_model("minilm=embed:model=package:gt,normalize=false,dimensions=8") == (
        "minilm",
        ServedModel(operator="embed", params={"model": "package:gt", "normalize": False, "dimensions": 8}),
    )
    assert parse_model('a/b=chat:{"model": "x,y", "stop": ["="]}') == (
        "a/b",
        ServedModel(operator="chat", params={"model": "x,y", "stop": ["="]}),
    )
    assert parse_model("plain=echo") == ("plain", ServedModel(operator="echo"))


@pytest.mark.parametrize("text", ["", "name", "=embed", "name=", "a b=embed", "name=embed:model", "name=embed:{"])
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|Expecting"):
        parse_model(text)


def test_a_model_without_a_name_is_answered_with_the_whole_form() -> None:
    with pytest.raises(ValueError, match=r"NAME=OPERATOR:KEY=VALUE,….*'gt' is not KEY=VALUE"):
        parse_model("embed:model=package:gt")


def test_a_model_of_an_operator_that_no_worker_has_is_refused() -> None:
    models = {"minilm": ServedModel(operator="embed"), "mine": ServedModel(operator="sentiment")}
    refuse_unknown_operators(models, ["embed", "sentiment"])
    with pytest.raises(UnknownOperator, match=r"'mine' cannot be served.*--operators"):
        refuse_unknown_operators(models, ["embed"])
    with pytest.raises(UnknownOperator, match=r"'minilm' cannot be served.*Did you mean 'embedd'"):
        refuse_unknown_operators(models, ["embedd", "sentiment"])


def test_clients_may_name_packages_allowed_models_and_folders_below_the_roots(tmp_path: Path) -> None:
    (tmp_path / "passwd").touch()
    locations = Locations([str(tmp_path)], hub_models=("intfloat/*",))
    nameable = ("package:some_model", "intfloat/e5-small", f"{tmp_path}/model", f"{tmp_path}/chat.gguf")
    others = ("/etc/passwd", f"{tmp_path}/passwd", f"{tmp_path}/../etc", "package:../x", "other/model", "s3://bucket/x")
    assert [name for name in (*nameable, *others, "a b", "//", "\0/") if may_be_named(name, locations)] == [*nameable]
