"""Settings of the services, from `BATCHMILL_…` environment variables; names that fit nothing are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from batchmill.durations import Span
from batchmill.errors import InvalidSettings, did_you_mean
from batchmill.jobs.job import DEFAULT_POOL, POOL_PATTERN
from batchmill.jobs.retry import STORAGE_WAIT_S
from batchmill.redis_access.address import RedisAddress
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill.tokens import split_entry
from batchmill.wording import sentence_of, shown

PREFIX = "BATCHMILL_"
CLIENT_NAMES = frozenset({"URL", "TOKEN", "DATA_DIR"})
"""What the client and the command line read; services let them stand."""


def split_list(value: object) -> object:
    """A list from text that separates its items by commas; anything else as it is."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


ListOfText = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
"""A setting that is a list, and in the environment text with commas."""


def split_pairs(value: object) -> object:
    """A mapping from text like `a=3,b=1`; anything else as it is. Raises `ValueError` for an item without `=`."""
    if not isinstance(value, str):
        return value
    pairs = [item.strip().partition("=") for item in value.split(",") if item.strip()]
    if any(not name.strip() or not sign for name, sign, _ in pairs):
        raise ValueError("items have the form TENANT=NUMBER and are separated by commas")
    return {name.strip(): number.strip() for name, _, number in pairs}


Weight = Annotated[float, Field(gt=0, le=1000)]
Weights = Annotated[dict[str, Weight], NoDecode, BeforeValidator(split_pairs)]
Limits = Annotated[dict[str, Annotated[int, Field(gt=0)]], NoDecode, BeforeValidator(split_pairs)]
"""Settings that map tenants to numbers, and in the environment are text like `a=3,b=1`."""


AUTO_SLOTS = "auto"
"""Text for a number of slots that follows the need of the pool, between one and what the device has cores for."""


def parse_slots(value: object) -> object:
    """0 for `AUTO_SLOTS`; anything else as it is."""
    return 0 if value == AUTO_SLOTS else value


SlotCount = Annotated[int, Field(ge=0, le=256), BeforeValidator(parse_slots)]


class ServiceSettings(BaseSettings):
    """What every service needs: the ledger, the blob store, and the folders it may touch."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    redis_url: str = "redis://127.0.0.1:6379/0"  # see `RedisAddress`
    redis_prefix: str = Field(default="batchmill:", max_length=64)  # of every key, Celery's included
    streams_url: str = ""  # the Redis with the streams that jobs may read; "": that of `redis_url`
    stream_servers: str = ""  # a TOML file that names other servers with streams: Kafka, NATS
    blob_root: str = ""  # a folder, or s3://bucket/prefix
    roots: ListOfText = ()  # folders and URI prefixes that may contain sources, outputs and models
    hub_models: ListOfText = ("*",)  # ids of the Hugging Face hub that jobs may name, as patterns
    stores: str = ""  # a TOML file that names the databases which jobs may write to
    unrestricted: bool = False  # any path: for the embedded service only, which acts for its own user
    s3_endpoint: str | None = None
    s3_region: str | None = None
    lease_ttl_s: Annotated[float, Span(gt=0)] = 10.0
    log_level: str = "INFO"
    log_format: Literal["console", "json"] = "console"
    secrets_dir: ListOfText = ()  # folders whose files are named after settings and hold their values

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Settings from `overrides` that are not None, the environment, and the files in its secrets folders, in turn.

        Raises `InvalidSettings`, naming the variable, for a wrong value or a name that no service knows.
        """
        _refuse_unknown_names()
        try:
            settings = cls(
                _secrets_dir=_secrets_folders(),
                **{name: value for name, value in overrides.items() if value is not None},  # type: ignore[arg-type]  # pydantic checks
            )
        except ValidationError as error:
            first = error.errors()[0]
            name = f"{PREFIX}{str(first['loc'][0]).upper()}"
            raise InvalidSettings(f"{name}: {sentence_of(first)}, got {shown(first['input'])}.", name=name) from error
        for url in filter(None, (settings.redis_url, settings.streams_url)):
            RedisAddress.parse(url)
        return settings

    def secret_values(self) -> tuple[str, ...]:
        """What these settings hold and no log may."""
        urls = (self.redis_url, self.streams_url, self.blob_root, self.s3_endpoint or "", *self.roots)
        return tuple(secret for url in urls for secret in _passwords(url))

    def locations(self) -> Locations:
        """The places that users may name."""
        roots = UNRESTRICTED if self.unrestricted else self.roots
        return Locations(roots, s3_endpoint=self.s3_endpoint, s3_region=self.s3_region, hub_models=self.hub_models)

    def blob_locations(self) -> Locations:
        """The blob store's own place, whatever users may name."""
        return Locations(UNRESTRICTED, s3_endpoint=self.s3_endpoint, s3_region=self.s3_region)


class CoordinatorSettings(ServiceSettings):
    """What the coordinator needs besides."""

    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)  # 0: any free one
    tokens: ListOfText = Field(default=(), repr=False)  # bearer tokens that are let in; the service needs one
    metrics_token: str = Field(default="", repr=False)  # opens /metrics alone; the tokens open it too
    leader_ttl_s: Annotated[float, Span(gt=0)] = 5.0
    shard_target_s: Annotated[float, Span(gt=0)] = 5.0  # how long a worker should be at work on a shard
    straggler_factor: Annotated[float, Span(ge=0)] = 3.0  # an attempt is late after that many predicted times; 0: never
    straggler_min_s: Annotated[float, Span(ge=0)] = 5.0  # the least of what it takes longer than predicted
    preempt_priority: int = Field(default=10, ge=0, le=200)  # by how much a job's has to be higher for that; 0: never
    shard_max_bytes: int = Field(default=16 * 1024 * 1024, gt=0)
    max_body_bytes: int = Field(default=8 * 1024 * 1024, gt=0)  # of a request that is no upload
    max_part_bytes: int = Field(default=32 * 1024 * 1024, gt=0)  # of one uploaded part
    max_bodies_bytes: int = Field(default=256 * 1024 * 1024, gt=0)  # of all requests that are being received
    max_unpacked_bytes: int = Field(default=128 * 1024 * 1024, gt=0)  # of rows in one request or part, unpacked
    max_rows_at_once: int = Field(default=10_000_000, gt=0)  # in one request or part
    max_columns: int = Field(default=10_000, gt=0)  # of a job's input
    max_connections: int = Field(default=2_000, gt=0)  # open at a time; more are refused
    head_timeout_s: Annotated[float, Span(gt=0)] = 20.0  # for a request's line and headers to arrive
    request_threads: int = Field(default=40, gt=0)  # for requests that wait for the ledger or for storage
    submit_threads: int = Field(default=8, gt=0)  # for requests that bring rows or name files
    max_waiting_requests: int = Field(default=1_000, gt=0)  # for one of these threads; more are refused
    inspectors: int = Field(default=2, ge=1, le=64)  # processes that read what users send; as many plan sources
    inspection_memory_mb: int = Field(default=4096, ge=512)  # MiB of address space of one of these processes
    inspection_timeout_s: Annotated[float, Span(gt=0)] = 120.0  # one that takes longer over a file or part is ended
    max_live_jobs: int = Field(default=10_000, gt=0)
    max_event_streams: int = Field(default=1000, gt=0)  # of one token, at a time, on each coordinator
    max_live_jobs_per_tenant: int = Field(default=5_000, gt=0)
    tenant_weights: Weights = Field(default={})  # shares of a pool among tenants; 1 for those that are not named
    tenant_max_shards: Limits = Field(default={})  # of a tenant, queued or running in a pool
    tenant_max_device_s: Limits = Field(default={})  # seconds of devices that a tenant may be charged for in a period
    tenant_period_s: int = Field(default=24 * 3600, ge=60)  # periods are counted from the epoch
    max_uploads_per_tenant: int = Field(default=200, gt=0)  # open at a time
    max_upload_bytes_per_tenant: int = Field(default=64 * 1024**3, gt=0)  # of them together
    upload_ttl_s: Annotated[float, Span(gt=0)] = 24 * 3600.0  # an upload that no job took is swept after this
    max_streams_per_tenant: int = Field(default=1_000, gt=0)  # to which rows are sent
    max_stream_bytes_per_tenant: int = Field(default=8 * 1024**3, gt=0)  # of rows in them that are not settled
    stream_ttl_s: Annotated[float, Span(gt=0)] = 7 * 24 * 3600.0  # rows in them that no job took are deleted after this
    max_file_bytes: int = Field(default=200 * 1024 * 1024, gt=0)  # of a file that clients upload for batches
    max_files_per_tenant: int = Field(default=10_000, gt=0)  # kept at a time
    max_file_bytes_per_tenant: int = Field(default=64 * 1024**3, gt=0)  # of them together
    file_ttl_s: Annotated[float, Span(ge=0)] = 30 * 24 * 3600.0  # a file is deleted after this; 0: never
    currency: str = Field(default="USD", pattern=r"^\S{1,8}$")  # what workers' prices are in; a label only
    models: str = ""  # a TOML or JSON file that names the models which are served
    webhooks: str = ""  # a TOML file that names the receivers of webhooks
    lane_max_waiting: int = Field(default=256, ge=1, le=100_000)  # interactive requests for one model
    lane_max_per_tenant: int = Field(default=256, ge=1)  # of one tenant, at a time, on each coordinator
    lane_timeout_s: Annotated[float, Span(gt=0, le=3600)] = 120.0  # for the answer to an interactive request
    scale_target_s: Annotated[float, Span(gt=0)] = 300.0  # in which a pool is to do what is left
    scale_start_s: Annotated[float, Span(ge=0)] = 150.0  # how long a worker takes to start, until that is measured
    scale_pools: str = ""  # a TOML file with the targets and maxima of single pools
    retention_s: Annotated[float, Span(ge=0)] = 7 * 24 * 3600.0  # an ended job is deleted after this; 0: never

    def secret_values(self) -> tuple[str, ...]:
        """Its tokens too."""
        tokens = (split_entry(entry).token for entry in self.tokens)
        own = (*self.tokens, *tokens, self.metrics_token)
        return tuple(dict.fromkeys(secret for secret in (*super().secret_values(), *own) if secret))


class WorkerSettings(ServiceSettings):
    """What a worker needs besides."""

    pool: str = Field(default=DEFAULT_POOL, pattern=POOL_PATTERN)
    devices: str = "auto"  # auto, all, cpu, cuda:0,2, cuda:0+1 (one worker over both)
    slots_per_device: SlotCount = 1  # processes on each device; 0: as many as the pool needs, see `AUTO_SLOTS`
    pin_cores: bool = True  # give each slot cores of its own, when there are several
    stand_in_devices: str = ""  # a JSON file of devices in place of the machine's
    trials: bool = False  # whether other batch sizes are tried on at most 5 % of a job's work, and what wins is used
    shards_at_once: int = Field(default=2, ge=1, le=16)  # one computes while the others load and store
    operators: ListOfText = ()  # modules to import
    endpoints: str = ""  # a TOML file that names services of language models, with their addresses and keys
    model_memory_mb: int | None = Field(default=None, gt=0)  # MiB, for what a process has loaded; None: a share
    converted_models_dir: str = ""  # where models are stored that were converted for OpenVINO; "": the user's cache
    converted_models_mb: int = Field(default=8192, ge=0)  # MiB that they may have; 0: they are converted every time
    row_cache_mb: int = Field(default=1024, ge=0)  # MiB of the blob store for the row cache; 0: nothing is kept
    row_cache_rows: int = Field(default=500_000, ge=0)  # that the row cache may have
    drain_s: Annotated[float, Span(gt=0)] = 25.0
    notices: Literal["off", "aws", "gcp", "azure"] = "off"  # whose metadata service says that this machine ends
    notices_url: str = ""  # http://host:port of that service; "": where the cloud has it
    batch_timeout_s: Annotated[float, Span(gt=0)] = 600.0  # a batch that takes longer hangs: its process is ended
    storage_wait_s: Annotated[float, Span(ge=0)] = STORAGE_WAIT_S  # then storage that is full or away fails attempts
    setup_timeout_s: Annotated[float, Span(gt=0)] | None = None  # the same for setting an operator up; None: as a batch
    max_result_bytes: int = Field(
        default=64 * 1024 * 1024, gt=0
    )  # of an attempt, before it commits a part of its shard
    recycle_rss_mb: int = Field(default=0, ge=0)  # a process with more resident memory is replaced; 0: never
    recycle_device_mb: int = Field(default=0, ge=0)  # one that uses more of a device's memory, too; 0: never
    price_per_hour: float = Field(default=0.0, ge=0, le=1e6)  # of a device, in the currency of the coordinators
    prices: ListOfText = ()  # "device type=price" each: of an hour of such a device; "device type spot=price"
    lifecycle: Literal["", "on_demand", "spot"] = ""  # of this machine; "": as the service of `notices` says
    worker_listen: str = ""  # host:port of the supervisor's /healthz and /readyz; port 0: any; "": nowhere

    trace: str = ""  # a file to write the phases of every shard to, in the Chrome trace format

    @property
    def converted_models_folder(self) -> Path:
        """Where converted models are stored on this machine."""
        if self.converted_models_dir:
            return Path(self.converted_models_dir).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "batchmill" / "models"

    @property
    def setup_limit_s(self) -> float:
        """How long setting an operator up may take, seconds."""
        return self.setup_timeout_s or self.batch_timeout_s


class FlowerSettings(ServiceSettings):
    """What `batchmill flower` needs besides."""

    flower_host: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65535)  # 0: any free one
    flower_users: ListOfText = Field(default=(), repr=False)  # "name:password" each; Flower needs one
    flower_max_tasks: int = Field(default=5_000, gt=0)  # kept in memory, the oldest forgotten
    flower_read_only: bool = True  # no buttons: Batchmill's own commands stop and pause jobs
    flower_url_prefix: str = ""  # where a proxy has it

    def secret_values(self) -> tuple[str, ...]:
        """The passwords of its users too."""
        passwords = (user.partition(":")[2] for user in self.flower_users)
        return (*super().secret_values(), *(password for password in passwords if password))


SERVICES: tuple[type[ServiceSettings], ...] = (ServiceSettings, CoordinatorSettings, WorkerSettings, FlowerSettings)
"""Every kind of settings there is."""


def _passwords(url: str) -> tuple[str, ...]:
    """The password in a URL, as it is and as the URL spells it."""
    try:
        password = urlsplit(url).password
    except ValueError:  # no URL
        return ()
    return (password, unquote(password)) if password else ()


def default_data_dir() -> Path:
    """Where the embedded service keeps its data: `BATCHMILL_DATA_DIR`, else the user's XDG data folder."""
    named = os.environ.get(f"{PREFIX}DATA_DIR")
    if named:
        return Path(named).expanduser().absolute()
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "batchmill"


def _secrets_folders() -> list[str]:
    name = f"{PREFIX}SECRETS_DIR"
    folders = [folder.strip() for folder in os.environ.get(name, "").split(",") if folder.strip()]
    for folder in folders:
        if not Path(folder).is_dir():
            raise InvalidSettings(f"{name} names {folder!r}, which is no folder.", name=name)
    return folders


def _refuse_unknown_names() -> None:
    known = {name.upper() for kind in SERVICES for name in kind.model_fields} | CLIENT_NAMES
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in known:
            raise InvalidSettings(
                f"the environment sets {variable}, which no Batchmill setting is called.",
                hint=did_you_mean(variable, {PREFIX + name for name in known}),
                name=variable,
            )
