"""The servers with streams that jobs may read: a TOML file names them, so that no request has an address or a password.

[kafka]
url = "kafka+ssl://broker-1.example:9093,broker-2.example:9093"
user = "batchmill"
password_file = "/run/secrets/kafka"
tenants = ["search"]
streams = ["search.*"]

[nats]
url = "nats://nats.example:4222"
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from batchmill.errors import InvalidSettings, InvalidSource, did_you_mean
from batchmill.storage.named_tables import read_named, read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTING = "BATCHMILL_STREAM_SERVERS"


class ServerKind(StrEnum):
    """What a server is: how the scheme of its URL begins."""

    KAFKA = "kafka"
    NATS = "nats"


SCHEMES = ("kafka", "kafka+ssl", "nats", "nats+tls")


class NamedStreamServer(BaseModel):
    """One server. The password is read from its file when a process connects, and is in no message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str  # SCHEME://HOST:PORT,HOST:PORT
    user: str | None = None
    password_file: Path | None = None  # without a user, it holds a token; NATS only
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"  # of Kafka's SASL, with a user
    ca_file: Path | None = None  # certificates that are trusted; None: the system's
    tenants: tuple[str, ...] | None = None  # who may read it; None: all
    streams: tuple[str, ...] = ("*",)  # patterns of the topics or streams that may be read
    group: str = "batchmill"  # under which settled offsets are committed to Kafka; "": none are

    @property
    def kind(self) -> ServerKind:
        """What kind of server it is."""
        return ServerKind(self.scheme.partition("+")[0])

    @property
    def scheme(self) -> str:
        """How its URL begins."""
        return self.url.partition("://")[0]

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of each of its machines."""
        return [one.strip() for one in self.url.partition("://")[2].split(",")]

    @property
    def encrypted(self) -> bool:
        """Whether connections use TLS."""
        return "+" in self.scheme

    def password(self) -> str | None:
        """Read its password. Raises `InvalidSettings` if the file cannot be read."""
        return None if self.password_file is None else read_secret(self.password_file)


_SERVERS = TypeAdapter(dict[str, NamedStreamServer])


class NamedStreamServers:
    """The servers of the settings. The default has none."""

    def __init__(self, servers: Mapping[str, NamedStreamServer] | None = None) -> None:
        self._servers = dict(servers or {})

    @classmethod
    def load(cls, path: str) -> Self:
        """Read the file at `path`; "" is none. Raises `InvalidSettings`, which names what is wrong."""
        if not path:
            return cls()
        servers = read_named(SETTING, path, _SERVERS)
        for name, server in servers.items():
            _check(path, name, server)
        return cls(servers)

    def get(self, name: str, kind: ServerKind, stream: str, tenant: str | None) -> NamedStreamServer:
        """Return the server of that name, for a stream of it. tenant: who reads it. Raises `InvalidSource`."""
        allowed = {
            known: server
            for known, server in self._servers.items()
            if server.kind is kind and (server.tenants is None or tenant in server.tenants)
        }
        found = allowed.get(name)
        if found is None:
            none = f"The service's operator names servers in the file of {SETTING}."
            raise InvalidSource(
                f"this service has no {kind} server {name!r}.",
                hint=did_you_mean(name, allowed) if allowed else none,
                field="source.server",
            )
        if not any(fnmatchcase(stream, pattern) for pattern in found.streams):
            raise InvalidSource(
                f"{stream!r} may not be read from the server {name!r}.",
                hint=f"Its operator allows {', '.join(found.streams)} in the file of {SETTING}.",
                field="source",
            )
        return found


def _check(path: str, name: str, server: NamedStreamServer) -> None:
    where = f"{SETTING}: {path}: {name}"
    if server.scheme not in SCHEMES or not all(_is_address(one) for one in server.addresses):
        raise InvalidSettings(
            f"{where}: expected SCHEME://HOST:PORT with one of the schemes {', '.join(SCHEMES)}, and no user, path or"
            " password in it.",
            hint="Put the password into a file of its own, and name that as password_file.",
            name=SETTING,
        )
    if server.kind is ServerKind.KAFKA and (server.user is None) != (server.password_file is None):
        raise InvalidSettings(f"{where}: expected user and password_file, or neither.", name=SETTING)
    if server.user is not None and server.password_file is None:
        raise InvalidSettings(f"{where}: a user needs a password_file.", name=SETTING)


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon) and port.isdecimal() and not set("@/?#") & set(text)
