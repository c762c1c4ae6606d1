"""The address of the Redis or Valkey server: one parser, for the ledger and for Celery's connections. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from batchmill.errors import InvalidSettings, did_you_mean

if TYPE_CHECKING:
    from typing import Any
    from urllib.parse import SplitResult

T = TypeVar("T")

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 6379
TCP_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""Each scheme over TCP, and whether it is encrypted."""

CERT_REQS = {"none": "none", "optional": "optional", "required": "required"}
CERT_REQS |= {f"cert_{name}": value for name, value in CERT_REQS.items()}
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile")
EXPECTED = (
    "Expected redis://user:password@host:port/db, rediss://… (TLS), unix://user:password@/path?db=0, or valkey:// and "
    "valkeys:// for the same. Percent-encode special characters of the password: @ is %40, / is %2F, # is %23."
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the certificate is verified: by default against the system's authorities, with the host name."""

    cert_reqs: str = "required"  # none, optional or required
    check_hostname: bool = True
    ca_certs: str | None = None  # a file of authorities
    certfile: str | None = None  # this client's own
    keyfile: str | None = None

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of redis-py's TLS connection."""
        return {
            "ssl_cert_reqs": self.cert_reqs,
            "ssl_check_hostname": self.check_hostname and self.cert_reqs != "none",
            "ssl_ca_certs": self.ca_certs,
            "ssl_certfile": self.certfile,
            "ssl_keyfile": self.keyfile,
        }


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where the server is, and who asks. Its text has no password."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str | None = None  # of a Unix socket, in place of host and port
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Parse a URL. Raises `InvalidSettings`, without the URL, which may have a password."""
        try:
            split = urlsplit(url)
            options = dict(parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query)))
            if split.fragment:
                raise ValueError("it has a '#'")
            return _parse_unix(split, options) if split.scheme == "unix" else _parse_tcp(split, options)
        except ValueError as error:
            raise InvalidSettings(f"BATCHMILL_REDIS_URL is no Redis URL: {error}.", hint=EXPECTED) from None

    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of redis-py's connections: where, who, which database."""
        where = {"path": self.path} if self.path is not None else {"host": self.host, "port": self.port}
        tls = self.tls.parameters() if self.tls is not None else {}
        return {**where, "db": self.database, "username": self.username, "password": self.password, **tls}

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def _parse_tcp(split: SplitResult, options: dict[str, str]) -> RedisAddress:
    if split.scheme not in TCP_SCHEMES:
        known = did_you_mean(split.scheme, [*TCP_SCHEMES, "unix"])
        raise ValueError(f"expected a scheme such as redis://, got {split.scheme[:20]!r}. {known}".rstrip("."))
    is_encrypted = TCP_SCHEMES[split.scheme]
    _refuse_unknown(options, ("db", *TLS_OPTIONS) if is_encrypted else ("db",))
    in_path = split.path.strip("/")
    if in_path and options.get("db", in_path) != in_path:
        raise ValueError(f"it names two databases, {in_path[:20]!r} and {options['db'][:20]!r}")
    return RedisAddress(
        host=unquote(split.hostname or DEFAULT_HOST),
        port=_port(split),
        database=_database(options.get("db", in_path or "0")),
        username=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
        tls=_tls(options) if is_encrypted else None,
    )


def _parse_unix(split: SplitResult, options: dict[str, str]) -> RedisAddress:
    _refuse_unknown(options, ("db",))
    if split.hostname or not split.path.strip("/"):
        raise ValueError("expected the absolute path of a socket after unix://, as in unix:///run/redis.sock")
    return RedisAddress(
        path=unquote(split.path),
        database=_database(options.get("db", "0")),
        username=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
    )


def _port(split: SplitResult) -> int:
    try:
        return DEFAULT_PORT if split.port is None else split.port
    except ValueError:  # its text may have a part of the password
        raise ValueError(
            "expected a port number after the host, or a character of the password is not encoded"
        ) from None


def _refuse_unknown(options: dict[str, str], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise ValueError(f"it has the unknown option {name[:40]!r}. {did_you_mean(name, known)}".rstrip("."))


def _database(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"expected the number of a database, got {text[:20]!r}")
    return int(text)


def _tls(options: dict[str, str]) -> Tls:
    return Tls(
        cert_reqs=_choice(options, "ssl_cert_reqs", CERT_REQS, "required"),
        check_hostname=_choice(options, "ssl_check_hostname", FLAGS, default=True),
        ca_certs=options.get("ssl_ca_certs"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
    )


def _choice(options: dict[str, str], name: str, choices: dict[str, T], default: T) -> T:
    text = options.get(name)
    if text is None:
        return default
    if text.lower() not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}; got {text[:20]!r}")
    return choices[text.lower()]
