"""The help of every command fits a terminal of 80 columns."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from click.testing import CliRunner

from batchmill.cli import main

COLUMNS = 80
COMMANDS = sorted(entry.name for entry in entry_points(group="batchmill.commands"))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_not_wider_than_the_terminal(command: str) -> None:
    runner = CliRunner(env={"COLUMNS": str(COLUMNS)})
    found = runner.invoke(main, [*([command] if command else []), "--help"])
    assert found.exit_code == 0, found.output
    assert [line for line in found.output.splitlines() if len(line) > COLUMNS] == []
    assert "Usage: " in found.output
