"""The address of the Redis or Valkey server, or of the sentinels that know it: one parser, for the ledger and Celery.

Pure.
"""

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
SENTINEL_PORT = 26379
MAX_SENTINELS = 16
TCP_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""Each scheme over TCP, and whether it is encrypted."""
SENTINEL_SUFFIX = "+sentinel"

CERT_REQS = {"none": "none", "optional": "optional", "required": "required"}
CERT_REQS |= {f"cert_{name}": value for name, value in CERT_REQS.items()}
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
PASSWORD_FILE, SENTINEL_USERNAME, SENTINEL_PASSWORD_FILE = (
    "password_file",
    "sentinel_username",
    "sentinel_password_file",
)
TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile")
EXPECTED = (
    "Expected redis://user:password@host:port/db, rediss://… (TLS), unix://user:password@/path?db=0, valkey:// and "
    "valkeys:// for the same, or redis+sentinel://user:password@host:port,host:port/name/db. Percent-encode special "
    "characters of the password: @ is %40, / is %2F, # is %23."
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
class Login:
    """Who asks. password_file: read at each connection, so that it may change."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows where the primary is. name: what they call it. hosts: (host, port) each."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    login: Login = Login()


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where the server is, and who asks. Its text has no password."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str | None = None  # of a Unix socket, in place of host and port
    database: int = 0
    login: Login = Login()
    tls: Tls | None = None
    sentinels: Sentinels | None = None  # in place of host and port

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Parse a URL. Raises `InvalidSettings`, without the URL, which may have a password."""
        try:
            split = urlsplit(url)
            options = dict(parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query)))
            if split.fragment:
                raise ValueError("it has a '#'")
            if split.scheme == "unix":
                return _parse_unix(split, options)
            if split.scheme.endswith(SENTINEL_SUFFIX):
                return _parse_sentinels(split, options)
            return _parse_tcp(split, options)
        except ValueError as error:
            raise InvalidSettings(f"BATCHMILL_REDIS_URL is no Redis URL: {error}.", hint=EXPECTED) from None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}?db={self.database}"
        scheme = "rediss" if self.tls else "redis"
        if self.sentinels is not None:
            hosts = ",".join(host_and_port(*host) for host in self.sentinels.hosts)
            return f"{scheme}{SENTINEL_SUFFIX}://{hosts}/{self.sentinels.name}/{self.database}"
        return f"{scheme}://{host_and_port(self.host, self.port)}/{self.database}"


def host_and_port(host: str, port: int) -> str:
    """Both as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_tcp(split: SplitResult, options: dict[str, str]) -> RedisAddress:
    is_encrypted = _is_encrypted(split.scheme, split.scheme)
    _refuse_unknown(options, ("db", PASSWORD_FILE, *(TLS_OPTIONS if is_encrypted else ())))
    return RedisAddress(
        host=unquote(split.hostname or DEFAULT_HOST),
        port=_port(split, DEFAULT_PORT),
        database=_one_database(split.path.strip("/"), options),
        login=_login(split, options),
        tls=_tls(options) if is_encrypted else None,
    )


def _parse_sentinels(split: SplitResult, options: dict[str, str]) -> RedisAddress:
    is_encrypted = _is_encrypted(split.scheme.removesuffix(SENTINEL_SUFFIX), split.scheme)
    own = ("db", PASSWORD_FILE, SENTINEL_USERNAME, SENTINEL_PASSWORD_FILE)
    _refuse_unknown(options, (*own, *(TLS_OPTIONS if is_encrypted else ())))
    name, _, database = split.path.strip("/").partition("/")
    if not name:
        raise ValueError(
            "expected the name of the primary after the sentinels, as in redis+sentinel://host:port/mymaster"
        )
    hosts = split.netloc.rpartition("@")[2].split(",")
    if len(hosts) > MAX_SENTINELS:
        raise ValueError(f"expected at most {MAX_SENTINELS} sentinels, got {len(hosts)}")
    return RedisAddress(
        database=_one_database(database, options),
        login=_login(split, options),
        tls=_tls(options) if is_encrypted else None,
        sentinels=Sentinels(
            hosts=tuple(_sentinel(host) for host in hosts),
            name=unquote(name),
            login=Login(username=options.get(SENTINEL_USERNAME), password_file=options.get(SENTINEL_PASSWORD_FILE)),
        ),
    )


def _sentinel(text: str) -> tuple[str, int]:
    split = urlsplit(f"//{text}")
    if not split.hostname:
        raise ValueError("expected the hosts of the sentinels, separated by commas")
    return unquote(split.hostname), _port(split, SENTINEL_PORT)


def _parse_unix(split: SplitResult, options: dict[str, str]) -> RedisAddress:
    _refuse_unknown(options, ("db", PASSWORD_FILE))
    if split.hostname or not split.path.strip("/"):
        raise ValueError("expected the absolute path of a socket after unix://, as in unix:///run/redis.sock")
    return RedisAddress(
        path=unquote(split.path), database=_database(options.get("db", "0")), login=_login(split, options)
    )


def _is_encrypted(scheme: str, shown: str) -> bool:
    if scheme not in TCP_SCHEMES:
        known = did_you_mean(shown, [*TCP_SCHEMES, *(name + SENTINEL_SUFFIX for name in TCP_SCHEMES), "unix"])
        raise ValueError(f"expected a scheme such as redis://, got {shown[:20]!r}. {known}".rstrip("."))
    return TCP_SCHEMES[scheme]


def _login(split: SplitResult, options: dict[str, str]) -> Login:
    if split.password and PASSWORD_FILE in options:
        raise ValueError(f"it has a password and {PASSWORD_FILE}")
    return Login(
        username=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
        password_file=options.get(PASSWORD_FILE),
    )


def _one_database(in_path: str, options: dict[str, str]) -> int:
    if in_path and options.get("db", in_path) != in_path:
        raise ValueError(f"it names two databases, {in_path[:20]!r} and {options['db'][:20]!r}")
    return _database(options.get("db", in_path or "0"))


def _port(split: SplitResult, default: int) -> int:
    try:
        return default if split.port is None else split.port
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
