"""Where the socket of the embedded service is."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from batchmill.embedded.valkey import SOCKET_NAME, make_runtime_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("length", [0, 120])
def test_a_socket_can_be_made_however_long_the_path_of_the_temporary_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    temporary = tmp_path / ("l" * length) if length else tmp_path
    temporary.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    folder = make_runtime_folder()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / SOCKET_NAME))
        (folder / SOCKET_NAME).unlink()
    finally:
        folder.rmdir()
    assert list(temporary.iterdir()) == []
