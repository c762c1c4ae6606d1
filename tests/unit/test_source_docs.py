"""The page about sources names every option, of the fields, of the shell, and every default."""

from __future__ import annotations

import re
from pathlib import Path

from batchmill.cli.arguments.source_options import FIELDS
from batchmill.cli.submit import submit
from batchmill.jobs.files import CsvDialect, FileSource

PAGE = (Path(__file__).parent.parent.parent / "docs" / "sources-and-outputs.md").read_text()


def test_every_field_of_a_source_and_of_a_dialect_is_documented() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    fields = {field.alias or name for name, field in FileSource.model_fields.items()} | set(CsvDialect.model_fields)
    assert fields <= rows


def test_every_option_of_the_shell_about_files_is_documented() -> None:
    options = {option for param in submit.params if param.name in FIELDS for option in param.opts}
    assert len(options) == len(FIELDS)
    assert {option for option in options if f"`{option}" not in PAGE} == set()
