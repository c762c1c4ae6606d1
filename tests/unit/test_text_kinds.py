"""What a model is for, told by the files beside its weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import InvalidParams
from batchmill_worker.text.kinds import ModelKind, read_facts, require_kind

if TYPE_CHECKING:
    from pathlib import Path


def model(folder: Path, **files: Any) -> str:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"modules": []}, ModelKind.EMBEDDER),
        ({"modules": [], "config_sentence_transformers": {"model_type": "CrossEncoder"}}, ModelKind.CLASSIFIER),
        ({"modules": [], "config_sentence_transformers": {"model_type": "SparseEncoder"}}, None),
        ({"config": {"architectures": ["BertForSequenceClassification"]}}, ModelKind.CLASSIFIER),
        ({"config": {"architectures": ["BertForTokenClassification"]}}, None),
        ({"config": {"architectures": ["BertForMaskedLM"]}}, ModelKind.EMBEDDER),
        ({"config": {"model_type": "bert"}}, ModelKind.EMBEDDER),
    ],
)
def test_the_files_define_the_kind(tmp_path: Path, files: dict[str, Any], kind: ModelKind | None) -> None:
    assert read_facts(model(tmp_path, **files)).kind is kind


def test_another_kind_is_refused_and_an_unknown_one_left_to_the_loader(tmp_path: Path) -> None:
    source = model(tmp_path, config={"architectures": ["BertForTokenClassification"]})
    with pytest.raises(
        InvalidParams,
        match=r"'embed' expects an embedding model, got 'x', which is of another kind \(BertForTokenClassification\)\. "
        r"Name an embedding model",
    ):
        require_kind("embed", "x", source, ModelKind.EMBEDDER)
    (tmp_path / "config.json").write_text("not JSON")
    require_kind("embed", "x", source, ModelKind.EMBEDDER)
