"""Connections over TLS share what is slow to make, and read certificates again that were renewed."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from batchmill.redis_access import connections
from batchmill.redis_access.connections import TlsConnection
from support.certificates import make_certificates

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Recorded:
    """In place of contexts: how many were made, and with which authorities."""

    made: int = 0

    def __init__(self) -> None:
        type(self).made += 1

    def load_verify_locations(self, path: str) -> None:
        """Take authorities."""

    def wrap_socket(self, sock: Any, server_hostname: str) -> str:  # noqa: ARG002  # as the real one
        """Name the host, which differs between connections with one context."""
        return server_hostname


def test_a_context_is_made_once_until_a_file_of_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ssl, "create_default_context", Recorded)
    connections._context.cache_clear()
    authority = make_certificates(tmp_path / "tls").authority
    made: list[Any] = [TlsConnection(host=host, ssl_ca_certs=str(authority)) for host in ("a", "b", "a")]
    assert [one._wrap_socket_with_ssl(None) for one in made] == ["a", "b", "a"]
    assert Recorded.made == 1
    authority.write_bytes(authority.read_bytes() + b"\n")
    assert made[0]._wrap_socket_with_ssl(None) == "a"
    assert Recorded.made == 2
    connections._context.cache_clear()
