"""Where a GGUF file is: in an installed package, or in a folder that users may name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import InvalidParams
from batchmill_worker.models.model_source import PACKAGE, package_folder

if TYPE_CHECKING:
    from batchmill.storage.locations import Locations

ENDING = ".gguf"
_DEPTH = 2


def is_gguf(model: str) -> bool:
    """Whether a name means a GGUF file, or a package that carries one. Raises `InvalidParams` for no package."""
    return bool(_files(package_folder(model.removeprefix(PACKAGE)))) if model.startswith(PACKAGE) else _is_file(model)


def locate_gguf(model: str, locations: Locations) -> Path:
    """Return the file of `package:NAME`, or of an absolute path below the roots that users may name.

    Raises `InvalidParams` if there is none, if a package has several, or if the path is outside of the roots.
    """
    if model.startswith(PACKAGE):
        return _in_package(model.removeprefix(PACKAGE))
    if not model.startswith("/") or not _is_file(model):
        raise InvalidParams(
            f"{model!r} names no model for llama.cpp.",
            hint=f"Expected package:NAME, or the absolute path of a {ENDING} file.",
            model=model,
        )
    location = locations.resolve(model, error=InvalidParams)
    path = Path(location.path)
    if not location.is_local or not path.is_file():
        raise InvalidParams(
            f"there is no file {location.path} on the worker.",
            hint="A model must be there on every worker's machine.",
            model=model,
        )
    return path


def _is_file(model: str) -> bool:
    return model.endswith(ENDING)


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob(f"*{ENDING}") if len(path.relative_to(root).parts) <= _DEPTH)


def _in_package(name: str) -> Path:
    found = _files(package_folder(name))
    if len(found) == 1:
        return found[0]
    what = f"several {ENDING} files: {', '.join(path.name for path in found)}" if found else f"no {ENDING} file"
    raise InvalidParams(
        f"the package {name} contains {what}.",
        hint="Use a package that carries one model's weights, or give the path of a file.",
        model=PACKAGE + name,
    )
