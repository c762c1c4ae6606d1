"""Run the commands of the other pages, and the examples, unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import batchmill

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.sandbox import Sandbox

OPERATORS = "docs/operators.md"
SOURCES = "docs/sources-and-outputs.md"


def test_the_operators_of_the_documentation_are_loaded_and_their_output_is_read_by_its_manifest(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    for name in ("shout.py", "length.py"):
        (sandbox.folder / name).write_text(command(OPERATORS, name))
    (sandbox.folder / "read_output.py").write_text(command(SOURCES, "read_output.py"))
    sandbox.start(command(OPERATORS, "up with operators"), writes="`batchmill down` stops it")
    service = json.loads((sandbox.data / "service.json").read_text())
    rows = [{"text": "one"}, {"text": "three"}]

    with batchmill.Client(service["url"], service["token"]) as client:
        shouted = client.submit("shout", rows=rows, params={"times": 2}, output=sandbox.folder / "out").wait()
        measured = client.submit("length", rows=rows).to_table()

        assert list(shouted.results()) == [{"text": "ONE!!"}, {"text": "THREE!!"}]
        assert measured.to_pylist() == [{"text": "one", "length": 3}, {"text": "three", "length": 5}]
    assert sandbox.run("python read_output.py") == "True\n"


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("embed_files.py", "texts in input order: True"),
        ("own_operator.py", "Did you mean 'limit'?"),
        ("follow_async.py", "the sum is right: True"),
    ],
)
def test_an_example_does_what_it_says(
    example: str, expected: str, root: Path, sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    assert f"python {example}\n" in command("examples/README.md", "examples")
    (sandbox.folder / example).write_text((root / "examples" / example).read_text())

    assert expected in sandbox.run(f"python {example}")
