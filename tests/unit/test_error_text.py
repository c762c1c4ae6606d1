"""What an exception says in one line, also one that says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.error_text import first_line
from batchmill.errors import InvalidSource
from batchmill.sources.files.opening import reading
from batchmill.storage.blobs import storage_error
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (OSError(""), "OSError"),
        (RuntimeError("\nlate"), "RuntimeError"),
    ],
)
def test_an_exception_has_one_line_or_its_type(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize("error", [OSError(), OSError("")])
def test_a_file_whose_error_has_no_message_is_named_all_the_same(tmp_path: Path, error: OSError) -> None:
    location = Locations(UNRESTRICTED).resolve(str(tmp_path / "file"), error=InvalidSource)
    assert str(tmp_path / "file") in storage_error("read", location, error).message
    with pytest.raises(InvalidSource, match="OSError"), reading(location):
        raise error
