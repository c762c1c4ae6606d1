"""A user's machine, and the commands that the documentation prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.sandbox import Block, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"(?:<!-- (?P<run>run|not run): (?P<what>[^>]+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A user's machine."""
    made = Sandbox(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def blocks() -> Callable[[str], list[Block]]:
    """Reads the fenced blocks of a page, named from the checkout."""

    def read(page: str) -> list[Block]:
        return [
            Block(found["kind"], found["text"], found["what"] if found["run"] == "run" else None)
            for found in _BLOCK.finditer((ROOT / page).read_text())
        ]

    return read


@pytest.fixture(scope="session")
def command(blocks: Callable[[str], list[Block]]) -> Callable[[str, str], str]:
    """The blocks of a page that bear a name, one after another."""

    def joined(page: str, name: str) -> str:
        found = [block.text for block in blocks(page) if block.run == name]
        assert found, f"{page} has no block <!-- run: {name} -->"
        return "\n".join(found)

    return joined
