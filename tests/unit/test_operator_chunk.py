"""`chunk`: pieces of real documents, by words and by a model's tokens."""

from __future__ import annotations

import json
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from batchmill.errors import InvalidParams, OperatorFailed
from batchmill.storage.locations import Locations
from batchmill_worker.models.setup_context import SetupContext
from support.text_models import FOLDER, MODEL, cache_over, definition_of, run

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.operators.contract import Expansion

DOCUMENTS = [topics["assignment"][:3000], "", " \n", "  naïve cafe\u0301, 数据处理 👩\u200d🚀!  ", "word " * 30]


def chunk(documents: list[str | None], root: Path | None = None, **params: Any) -> Expansion:
    operator = definition_of("chunk").build(params)
    with SetupContext(Locations([str(root)] if root else ())).active():
        operator.setup("cpu")
    result: Expansion = operator.infer(pa.table({"text": pa.array(documents, pa.string())}))
    operator.teardown()
    return result


def chunks_of(result: Expansion, documents: list[Any]) -> list[list[dict[str, Any]]]:
    """The chunks of each document, checked to be parts of it that cover it."""
    rows = iter(result.results.to_pylist())
    found = [[next(rows) for _ in range(count)] for count in result.counts]
    assert next(rows, None) is None
    for document, chunks in zip(documents, found, strict=True):
        reached = 0
        for number, row in enumerate(chunks):
            assert row["chunk"] == number
            assert row["text"] == document[row["start"] : row["end"]]
            assert row["start"] <= reached
            reached = row["end"]
        assert document is None or reached == len(document)
    return found


def test_words_and_signs_are_counted_without_a_model() -> None:
    (chunks,) = chunks_of(chunk(["One, two three. Four"], size=3, overlap=1), ["One, two three. Four"])
    assert [row["text"] for row in chunks] == ["One, two ", "two three. ", ". Four"]


def test_documents_of_all_kinds_are_covered_and_an_empty_one_has_an_empty_chunk() -> None:
    result = chunk(list(DOCUMENTS), size=7, overlap=2)
    found = chunks_of(result, DOCUMENTS)
    assert [len(chunks) for chunks in found[1:]] == [1, 1, 1, 6]
    assert found[1] == [{"text": "", "chunk": 0, "start": 0, "end": 0}]
    assert result.results.schema == pa.schema(
        {"text": pa.string(), "chunk": pa.int32(), "start": pa.int64(), "end": pa.int64()}
    )


def test_tokens_of_a_model_are_counted_exactly() -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_truncation()
    (chunks,) = chunks_of(chunk([DOCUMENTS[0]], tokenizer=MODEL, size=50, overlap=10), [DOCUMENTS[0]])
    spans = tokenizer.encode(DOCUMENTS[0], add_special_tokens=False).offsets
    inside = [[place for place, span in enumerate(spans) if row["start"] <= span[0] < row["end"]] for row in chunks]
    assert inside[:-1] == [list(range(first, first + 50)) for first in range(0, 40 * (len(chunks) - 1), 40)]
    assert inside[-1][0] == 40 * (len(chunks) - 1)
    assert inside[-1][-1] == len(spans) - 1


def test_a_character_of_several_tokens_or_code_points_is_never_cut(tmp_path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "config.json").write_text("{}")
    document = "a👩\u200d🚀bé"  # an emoji of three code points, eleven bytes; a letter of two bytes
    result = chunk([document], tmp_path, tokenizer=str(tmp_path), size=3, overlap=1)
    (chunks,) = chunks_of(result, [document])
    assert [row["text"] for row in chunks] == ["a", "👩\u200d🚀", "bé"]


def test_chunks_know_the_row_that_they_are_from() -> None:
    table = pa.table({"id": ["a", "b", "c"], "text": ["one two three", None, "four"]})
    with cache_over() as cache:
        result = run(cache, "chunk", table, size=2, overlap=1, batch_size=2)
    assert result.table.select(["id", "text", "chunk"]).to_pylist() == [
        {"id": "a", "text": "one two ", "chunk": 0},
        {"id": "a", "text": "two three", "chunk": 1},
        {"id": "c", "text": "four", "chunk": 0},
    ]
    assert [row.index for row in result.dead] == [1]


@pytest.mark.parametrize("by", ["sentence", "markdown", "code"])
def test_documents_of_all_kinds_are_covered_along_their_structure(by: str) -> None:
    result = chunk([*DOCUMENTS, None], size=40, overlap=5, by=by)
    found = chunks_of(result, [*DOCUMENTS, None])
    assert [len(chunks) for chunks in found[1:]] == [1, 1, 1, 1, 0]
    assert len(found[0]) > 10
    assert result.results.schema.names == ["text", "chunk", "start", "end", *["headings"] * (by == "markdown")]


def test_chunks_of_markdown_have_the_headings_above_them() -> None:
    document = "# Cats\n\nSmall.\n\n## Food\n\nFish."
    result = chunk([document, ""], by="markdown")
    assert [(row["text"], row["headings"]) for row in result.results.to_pylist()] == [
        ("# Cats\n\nSmall.\n\n", ["Cats"]),
        ("## Food\n\nFish.", ["Cats", "Food"]),
        ("", []),
    ]


def test_a_null_document_fails_and_has_no_chunks() -> None:
    result = chunk(["one two", None, "three"], size=1, overlap=0)
    assert list(result.counts) == [2, 0, 1]
    assert [error.message for error in result.errors.values()] == ["column 'text' is null, expected text"]
    assert list(result.errors) == [1]
    nothing = chunk([None])
    assert (nothing.results.num_rows, list(nothing.counts)) == (0, [0])


def test_impossible_parameters_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="overlap is 5, expected less than size, which is 5"):
        chunk(["a"], size=5, overlap=5)
    with pytest.raises(InvalidParams, match="the package no_such_weights is not installed"):
        chunk(["a"], tokenizer="package:no_such_weights")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OperatorFailed, match=f"'chunk' could not load the model .* from {tmp_path}"):
        chunk(["a"], tmp_path, tokenizer=str(tmp_path))
