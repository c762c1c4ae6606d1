"""The secrets of a compose stack: drawn once, kept, or given; and how services read them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidSettings
from batchmill.settings import CoordinatorSettings, FlowerSettings

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "make_secrets.py"
GIVEN = ("REDIS_PASSWORD", "API_TOKENS", "METRICS_TOKEN", "FLOWER_USERS", "GRAFANA_PASSWORD")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in (*GIVEN, "BATCHMILL_TOKENS", "BATCHMILL_REDIS_URL", "BATCHMILL_FLOWER_USERS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("make_secrets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ledger", "api", "metrics", "flower", "grafana"):
        (tmp_path / name).mkdir()
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_secrets_are_drawn_once_and_differ(script: ModuleType, folder: Path, tmp_path: Path) -> None:
    script.main(folder)
    first = contents(folder)
    script.main(folder)

    assert contents(tmp_path) == first
    assert set(first) == {
        "ledger/valkey_password",
        "ledger/batchmill_redis_url",
        "api/batchmill_tokens",
        "metrics/batchmill_metrics_token",
        "flower/batchmill_flower_users",
        "grafana/admin_password",
    }
    drawn = [first["ledger/valkey_password"], first["api/batchmill_tokens"], first["grafana/admin_password"]]
    assert len(set(drawn)) == 3
    assert all(len(secret) >= 32 for secret in drawn)
    assert (folder / "ledger" / "valkey_password").stat().st_mode & 0o777 == 0o400


def test_what_the_user_gives_replaces_what_was_drawn(
    script: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.main(folder)
    monkeypatch.setenv("REDIS_PASSWORD", "a/b c")
    monkeypatch.setenv("API_TOKENS", "one,two")
    script.main(folder)

    assert (folder / "ledger" / "valkey_password").read_text() == "a/b c"
    assert (folder / "ledger" / "batchmill_redis_url").read_text() == "redis://:a%2Fb%20c@valkey:6379/0"
    assert (folder / "api" / "batchmill_tokens").read_text() == "one,two"


def test_services_read_their_settings_from_the_files_unless_the_environment_has_them(
    script: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKENS", "one,two")
    script.main(folder)
    monkeypatch.setenv("BATCHMILL_SECRETS_DIR", ",".join(str(folder / name) for name in ("ledger", "api", "metrics")))
    settings = CoordinatorSettings.load()
    assert settings.tokens == ("one", "two")
    assert settings.metrics_token == (folder / "metrics" / "batchmill_metrics_token").read_text()
    assert settings.redis_url == (folder / "ledger" / "batchmill_redis_url").read_text()

    monkeypatch.setenv("BATCHMILL_SECRETS_DIR", str(folder / "flower"))
    monkeypatch.setenv("BATCHMILL_REDIS_URL", "redis://elsewhere")
    flower = FlowerSettings.load()
    assert flower.flower_users[0].startswith("flower:")
    assert flower.redis_url == "redis://elsewhere"


def test_a_secrets_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BATCHMILL_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidSettings, match="nowhere"):
        CoordinatorSettings.load()
