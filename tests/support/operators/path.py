"""Where the workers that tests start find their operators: a fixture for the folders of tests that start some."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATORS_FOLDER = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def operators_on_path() -> Iterator[None]:
    """Workers find the tests' operators, and models offline."""
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(OPERATORS_FOLDER), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))  # an empty one would be the current folder
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield
