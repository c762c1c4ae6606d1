"""The receivers of webhooks: a TOML file names them, so that no request has a secret.

[ops]
url = "https://hooks.example/batchmill"
secret_file = "/run/secrets/ops-webhook"
events = ["job.failed", "job.dead_rows"]
dead_rows = 100
every_job = true

[search]
secret_file = "/run/secrets/search-webhook"
tenants = ["search"]
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from batchmill.errors import InvalidRequest, InvalidSettings, did_you_mean
from batchmill.jobs.sink import NAME_PATTERN
from batchmill.jobs.webhooks.spec import MAX_URL_CHARS, WebhookEvent, WebhookSpec
from batchmill.storage.named_tables import read_named, read_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SETTING = "BATCHMILL_WEBHOOKS"
SECRET_PREFIX = "whsec_"  # noqa: S105  # how such secrets begin
MIN_SECRET_BYTES = 24


class NamedWebhook(BaseModel):
    """A receiver, or who may name receivers of their own.

    url: where messages go; None: jobs say where. secret_file: has the secret, or several, one a line: each signs, so
    that receivers can change from one to the next. events: None: every one. every_job: whether jobs need not name it.
    tenants: who may use it; None: all. private_network: whether it may be at a private address, and without TLS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, Field(max_length=MAX_URL_CHARS)] | None = None
    secret_file: Path
    events: list[WebhookEvent] | None = None
    dead_rows: int | None = Field(default=None, ge=1, le=2**53)
    every_job: bool = False
    tenants: list[str] | None = None
    private_network: bool = False

    def keys(self) -> list[bytes]:
        """Read the keys that sign. Raises `InvalidSettings`."""
        lines = read_secret(self.secret_file).split()
        try:
            keys = [base64.b64decode(line.removeprefix(SECRET_PREFIX), validate=True) for line in lines]
        except binascii.Error:
            keys = []
        if not keys or min(map(len, keys)) < MIN_SECRET_BYTES:
            raise InvalidSettings(
                f"{self.secret_file} has no secret of a webhook: expected {SECRET_PREFIX} and base64 of at least "
                f"{MIN_SECRET_BYTES} bytes.",
                hint="Make one: python3 -c 'import base64, secrets; "
                'print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())\'',
            )
        return keys


_WEBHOOKS = TypeAdapter(dict[Annotated[str, Field(pattern=NAME_PATTERN)], NamedWebhook])


class NamedWebhooks:
    """The receivers of the settings. The default has none."""

    def __init__(self, webhooks: Mapping[str, NamedWebhook] | None = None) -> None:
        self._webhooks = dict(webhooks or {})

    @classmethod
    def load(cls, path: str) -> Self:
        """Read the file at `path`; "" is none. Raises `InvalidSettings`, which says what is wrong."""
        if not path:
            return cls()
        webhooks = read_named(SETTING, path, _WEBHOOKS)
        for name, webhook in webhooks.items():
            where = f"{SETTING}: {path}: {name}"
            webhook.keys()
            if webhook.url is not None:
                fault = url_fault(webhook.url, private_network=webhook.private_network)
                if fault:
                    raise InvalidSettings(f"{where}: {fault}.", name=SETTING)
            elif webhook.every_job:
                raise InvalidSettings(f"{where}: every_job needs a url.", name=SETTING)
        return cls(webhooks)

    def find(self, name: str) -> NamedWebhook | None:
        """Return the entry of that name, whoever may use it."""
        return self._webhooks.get(name)

    def of_every_job(self, tenant: str) -> Iterator[WebhookSpec]:
        """Yield the webhooks that jobs of a tenant have without naming them."""
        for name, one in self._webhooks.items():
            if one.every_job and _may_use(one, tenant):
                yield WebhookSpec(name=name, events=one.events, dead_rows=one.dead_rows)

    def check(self, specs: Iterable[WebhookSpec], tenant: str) -> None:
        """Raise `InvalidRequest` unless a job of a tenant may have these webhooks."""
        for spec in specs:
            self._check(spec, tenant)

    def _check(self, spec: WebhookSpec, tenant: str) -> None:
        allowed = {name: one for name, one in self._webhooks.items() if _may_use(one, tenant)}
        found = allowed.get(spec.name)
        if found is None:
            none = f"The service's operator names receivers in the file of {SETTING}."
            raise InvalidRequest(
                f"this service has no webhook {spec.name!r}.",
                hint=did_you_mean(spec.name, allowed) if allowed else none,
                field="webhooks",
            )
        if (spec.url is None) == (found.url is None):
            expected = "a url: the entry has none" if spec.url is None else "no url: the entry has one"
            raise InvalidRequest(f"the webhook {spec.name!r} needs {expected}.", field="webhooks")
        fault = spec.url is not None and url_fault(spec.url, private_network=found.private_network)
        if fault:
            raise InvalidRequest(f"the webhook {spec.name!r}: {fault}.", field="webhooks")


def url_fault(url: str, *, private_network: bool) -> str | None:
    """Say what is wrong with the address of a receiver; None: nothing."""
    schemes = ("https", "http") if private_network else ("https",)
    try:
        split = urlsplit(url)
        is_fit = split.scheme in schemes and bool(split.hostname) and split.port != 0
    except ValueError:
        is_fit = False
    if not is_fit or not url.isascii() or not url.isprintable() or " " in url:
        return f"expected a URL with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if split.username is not None or split.password is not None or split.fragment:
        return "the URL has a user, a password or a fragment"
    return None


def _may_use(webhook: NamedWebhook, tenant: str) -> bool:
    return webhook.tenants is None or tenant in webhook.tenants
