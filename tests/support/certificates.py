"""Certificates of this machine, signed by an authority of their own. Needs `openssl`."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NEW_KEY = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, and a certificate with its key for both ends of a connection."""

    authority: Path
    certificate: Path
    key: Path

    def client_options(self) -> dict[str, str]:
        """Return the options of redis-py, and of the addresses of Batchmill."""
        return {
            "ssl_ca_certs": os.fspath(self.authority),
            "ssl_certfile": os.fspath(self.certificate),
            "ssl_keyfile": os.fspath(self.key),
        }

    def server_options(self) -> dict[str, object]:
        """Return the options of Redis, which then wants certificates of clients too, and its replicas' as well."""
        return {
            "tls-ca-cert-file": self.authority,
            "tls-cert-file": self.certificate,
            "tls-key-file": self.key,
            "tls-auth-clients": "yes",
            "tls-replication": "yes",
        }


def make_certificates(folder: Path) -> Certificates:
    """Make them in a folder, for `127.0.0.1`."""
    folder.mkdir(parents=True)
    made = Certificates(folder / "authority.pem", folder / "here.pem", folder / "here.key")
    _make(made.authority, folder / "authority.key", "/CN=authority")
    signed = ("-CA", os.fspath(made.authority), "-CAkey", os.fspath(folder / "authority.key"))
    extra = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
    _make(made.certificate, made.key, "/CN=here", *signed, *extra)
    return made


def _make(certificate: Path, key: Path, name: str, *options: str) -> None:
    command = (*_NEW_KEY, "-subj", name, "-keyout", os.fspath(key), "-out", os.fspath(certificate), *options)
    subprocess.run(command, check=True, capture_output=True)
