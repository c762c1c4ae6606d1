"""The databases that jobs may write to: a TOML file names them, so that no request has an address or a password.

[warehouse]
url = "postgresql://batchmill@db.example/vectors"
password_file = "/run/secrets/warehouse"
tenants = ["search"]

[notes]
url = "chroma+https://chroma.example:8000"

[pages]
url = "qdrant+https://qdrant.example:6333"
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, TypeAdapter

from batchmill.errors import InvalidOutput, InvalidSettings, did_you_mean
from batchmill.storage.named_tables import read_named, read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping


class StoreKind(StrEnum):
    """What a database is: how the scheme of its URL begins."""

    POSTGRES = "postgresql"
    CHROMA = "chroma"
    QDRANT = "qdrant"


SCHEMES = ("postgresql", "chroma+http", "chroma+https", "qdrant+http", "qdrant+https")


class NamedStore(BaseModel):
    """One database. The password is read from its file whenever it is needed, and is in no message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    password_file: Path | None = None
    tenants: list[str] | None = None  # who may use it; None: all

    @property
    def kind(self) -> StoreKind:
        """What kind of database it is."""
        return StoreKind(urlsplit(self.url).scheme.partition("+")[0])

    def password(self) -> str | None:
        """Read its password. Raises `InvalidSettings` if the file cannot be read."""
        if self.password_file is None:
            return None
        return read_secret(self.password_file)


_STORES = TypeAdapter(dict[str, NamedStore])


class NamedStores:
    """The databases of the settings. The default has none."""

    def __init__(self, stores: Mapping[str, NamedStore] | None = None) -> None:
        self._stores = dict(stores or {})

    @classmethod
    def load(cls, path: str) -> Self:
        """Read the file at `path`; "" is none. Raises `InvalidSettings`, which names what is wrong."""
        if not path:
            return cls()
        stores = read_named("BATCHMILL_STORES", path, _STORES)
        for name, store in stores.items():
            _check(path, name, store)
        return cls(stores)

    def get(self, name: str, tenant: str | None = None) -> NamedStore:
        """Return the store of that name. tenant: who asks; None: the service. Raises `InvalidOutput`."""
        allowed = {
            known: store
            for known, store in self._stores.items()
            if tenant is None or store.tenants is None or tenant in store.tenants
        }
        found = allowed.get(name)
        if found is None:
            none = "The service's operator names stores in the file of BATCHMILL_STORES."
            raise InvalidOutput(
                f"this service has no store {name!r}.",
                hint=did_you_mean(name, allowed) if allowed else none,
                store=name,
            )
        return found


def _check(path: str, name: str, store: NamedStore) -> None:
    split = urlsplit(store.url)
    if split.scheme not in SCHEMES:
        raise InvalidSettings(
            f"BATCHMILL_STORES: {path}: {name}: expected a URL with one of the schemes {', '.join(SCHEMES)}.",
            name="BATCHMILL_STORES",
        )
    if split.password is not None or {"password", "sslpassword"} & parse_qs(split.query).keys():
        raise InvalidSettings(
            f"BATCHMILL_STORES: {path}: {name}: the URL holds a password.",
            hint="Put it into a file of its own, and name that as password_file.",
            name="BATCHMILL_STORES",
        )
