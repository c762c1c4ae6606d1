from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.cli.demo.corpus import chapters, language_reference
from batchmill.cli.demo.folder import MARKER, DemoFolder
from batchmill.cli.demo.search import recall
from batchmill.embedded.folder import DataFolder
from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path

CHAPTER = """The "with" statement
********************

The first paragraph has
  enough words   to be kept.


Too short.

The second paragraph has enough words as well.
"""


def test_a_chapter_is_a_row_without_the_lines_under_its_headings() -> None:
    rows = chapters({"with": CHAPTER, "as": CHAPTER})
    assert [row["topic"] for row in rows] == ["as", "with"]
    assert rows[0]["text"].startswith('The "with" statement\n\nThe first paragraph')
    assert rows[0]["text"].endswith("enough words as well.")


def test_the_language_reference_gives_the_same_chapters_each_time() -> None:
    rows = chapters(language_reference())
    assert len(rows) > 70
    assert rows == chapters(language_reference())
    assert all(row["text"] for row in rows)


def test_a_missing_folder_is_made_and_marked(tmp_path: Path) -> None:
    DemoFolder(tmp_path / "a" / "demo").recreate()
    assert [entry.name for entry in (tmp_path / "a" / "demo").iterdir()] == [MARKER]


def test_the_folder_of_a_former_demo_is_emptied(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    folder.recreate()
    folder.table.mkdir()
    folder.service.mkdir()
    (folder.table / "part.parquet").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path.parent, target_is_directory=True)
    folder.recreate()
    assert [entry.name for entry in tmp_path.iterdir()] == [MARKER]
    assert tmp_path.parent.exists()


def test_a_folder_with_files_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(InvalidSettings, match=r"thesis\.tex"):
        DemoFolder(tmp_path).recreate()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_a_demo_is_using_is_refused(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    folder.recreate()
    running = DataFolder(folder.service)
    running.lock()
    try:
        with pytest.raises(InvalidSettings, match="already runs"):
            folder.recreate()
    finally:
        running.release()


def _table(vectors: list[list[float]], **columns: list[str]) -> pa.Table:
    embedding = pa.array(vectors, pa.list_(pa.float32(), len(vectors[0])))
    return pa.table({"embedding": embedding, **columns})


def test_recall_is_the_share_of_the_nearest_chunks_that_a_search_finds() -> None:
    vectors = [[1.0, step / 10] for step in range(8)]
    chunks = _table(vectors, text=[f"chunk {number}" for number in range(8)])
    ends = {"chunk 0", "chunk 1", "chunk 6", "chunk 7"}
    assert recall(chunks, lambda _: set(chunks["text"].to_pylist()), asked=2, count=2) == 1
    assert recall(chunks, lambda _: ends, asked=2, count=2) == 1
    assert recall(chunks, lambda _: {"chunk 0"}, asked=2, count=2) == 0.25
    assert recall(chunks, lambda _: {"chunk 0"}, asked=2, count=100) == pytest.approx(2 / 16)


def test_chunks_that_are_equally_near_are_found_as_well() -> None:
    chunks = _table([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], text=["a", "b", "other"])
    assert recall(chunks, lambda vector: {"b"} if vector[0] else {"other"}, asked=3, count=1) == 1
