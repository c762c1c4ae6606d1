"""The TOML files of the operator that give names to services, and the files beside them that hold their secrets."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def read_named(setting: str, path: str, kind: TypeAdapter[dict[str, T]]) -> dict[str, T]:
    """Read the file at `path`, which `setting` names. Raises `InvalidSettings`, which says what is wrong."""
    try:
        return kind.validate_python(tomllib.loads(Path(path).read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings(f"{setting}: {path} cannot be read: {error}.", name=setting) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidSettings(f"{setting}: {path}: {where}: {first['msg']}.", name=setting) from None


def read_secret(path: Path) -> str:
    """Read what a file holds now. Raises `InvalidSettings` if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror or error}.") from error
