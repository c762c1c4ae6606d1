"""Operators whose results change their columns and types from row to row."""

from __future__ import annotations

from typing import Any

from batchmill import operator


@operator("drift", batch_format="rows")
def drift(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the value that a row's `as` asks for, from batch to batch of another type."""
    values = {"int": 1, "float": 0.5, "none": None, "text": "x", "list": [1], "nested": {"a": 1}, "wider": {"b": "x"}}
    return [{"value": values[row["as"]], **({"extra": True} if row["as"] == "float" else {})} for row in rows]


@operator("reserving", batch_format="rows")
def reserving(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a column with a name that is Batchmill's own."""
    return [{"__batchmill_row__": 1} for _ in rows]
