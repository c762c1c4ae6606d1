"""Tables on terminals of any width: ids and numbers are complete, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from batchmill.cli.terminal.tables import INDENT, Column, lay_out

COLUMNS = (
    Column("JOB"),
    Column("STATE"),
    Column("NAME", is_text=True),
    Column("ROWS"),
    Column("LEFT"),
    Column("BLOCKED", is_below=True),
)
ROW = ("job-01m8b3zjfyqe3279000", "running", "a name that is quite long", "1,000,000", "12 s (9 s to 15 s)", "")


def test_a_table_that_fits_is_one_line_per_row_with_aligned_columns() -> None:
    layout = lay_out(COLUMNS, [ROW, ("job-2", "failed", "b", "1", "", "")], 200)

    assert [len(lines) for lines in layout.rows] == [1, 1]
    assert layout.header.index("ROWS") == layout.rows[0][0].index("1,000,000") == layout.rows[1][0].index("1")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_ids_and_numbers_are_complete_at_every_width(width: int) -> None:
    layout = lay_out(COLUMNS, [ROW], width)

    text = "\n".join(layout.rows[0])
    assert all(cell in text for cell in (ROW[0], ROW[1], ROW[3], ROW[4]))
    assert all(cell_len(line) <= width for line in (layout.header, *layout.rows[0]))


def test_a_long_note_is_a_line_of_its_own_and_takes_no_width_from_the_columns() -> None:
    note = "no worker of pool 'gpu' is running; start one with `batchmill worker --pool gpu`"
    without, with_note = lay_out(COLUMNS, [ROW], 80), lay_out(COLUMNS, [(*ROW[:-1], note)], 80)

    assert with_note.header == without.header
    assert with_note.rows[0][0] == without.rows[0][0]
    assert with_note.rows[0][-1] == f"{INDENT}blocked: {note}"


def test_text_is_cut_with_an_ellipsis_before_a_column_moves_below() -> None:
    layout = lay_out((Column("ID"), Column("NAME", is_text=True)), [("1234567890", "x" * 50)], 30)

    assert layout.rows == [["1234567890  " + "x" * 17 + "…"]]


@given(
    st.lists(st.tuples(st.text("ab漢", max_size=30), st.text("cd", max_size=30), st.text("e", max_size=9)), max_size=5),
    st.integers(20, 140),
)
def test_no_cell_of_a_column_that_may_not_be_cut_is_lost(rows: list[tuple[str, str, str]], width: int) -> None:
    layout = lay_out((Column("A"), Column("B", is_text=True), Column("C")), rows, width)

    assert len(layout.rows) == len(rows)
    for row, lines in zip(rows, layout.rows, strict=True):
        text = "\n".join(lines)
        assert row[0] in text
        assert row[2] in text
