"""State diagrams as tables.

Drawing them takes a library that browsers would load from another host, and no page may depend on one.
"""

from __future__ import annotations

import re

_DIAGRAM = re.compile(r"^```mermaid\nstateDiagram-v2\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MOVE = re.compile(r"^ *(\S+) --> (\S+?)(?: *: *(.+))?$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace every state diagram of a page."""
    return _DIAGRAM.sub(lambda diagram: table_of(diagram[1]), markdown)


def table_of(diagram: str) -> str:
    """The moves of a state diagram, a row each."""
    rows = [
        f"| {_name(start, 'start')} | {_name(end, 'end')} | {when} |" for start, end, when in _MOVE.findall(diagram)
    ]
    return "\n".join(["| from | to | when |", "| --- | --- | --- |", *rows])


def _name(state: str, edge: str) -> str:
    return edge if state == "[*]" else f"`{state}`"
