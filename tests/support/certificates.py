"""Certificates for tests: an authority of their own, and servers that it knows. Needs `openssl`."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificate(NamedTuple):
    """A server's certificate and key."""

    file: Path
    key: Path


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
    """Make an authority and a certificate of `127.0.0.1` in a folder."""
    folder.mkdir(parents=True)
    authority, here = make_authority(folder), make_certificate(folder, "here", "IP:127.0.0.1")
    return Certificates(authority, here.file, here.key)


def make_authority(folder: Path) -> Path:
    """Make an authority; return its certificate, which clients trust."""
    _openssl(
        folder, "req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"
    )
    return folder / "ca.pem"


def make_certificate(folder: Path, name: str, alternative: str) -> Certificate:
    """Make a certificate of the authority in the folder. alternative: as "DNS:localhost,IP:127.0.0.1"."""
    (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\nbasicConstraints=CA:FALSE\n")
    _openssl(folder, "req", *_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return Certificate(folder / f"{name}.pem", folder / f"{name}.key")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
