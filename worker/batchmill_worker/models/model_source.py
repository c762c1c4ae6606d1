"""Where a model's weights lie: in an installed package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import InvalidParams
from batchmill.storage.hub_models import is_hub_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.storage.locations import Locations

PACKAGE = "package:"
_MARKS = ("modules.json", "config.json")
"""The files a model folder is known by; the first also tells how to pool what the model gives."""
_DEPTH = 2
"""How many folders deep a package is searched."""
_FORMS = "Expected a hub id (organisation/name), an absolute folder, or package:NAME."


def locate_model(model: str, locations: Locations) -> str:
    """What a model is loaded from: the path of a folder that exists, or a hub id as it was given.

    Raises `InvalidParams`, saying what was looked for where, if there is no such package or folder, if a folder lies
    outside the places users may name, or if the text is none of the three forms.
    """
    if model.startswith(PACKAGE):
        return str(_in_package(model.removeprefix(PACKAGE)))
    if model.startswith("/") or "://" in model:
        return _folder(model, locations)
    if not is_hub_id(model):
        raise InvalidParams(f"{model!r} names no model.", hint=_FORMS, model=model)
    locations.hub_models.check(model)
    if Path(model).exists():
        # the loader would prefer it to the hub's, wherever the worker happens to run
        raise InvalidParams(
            f"{model!r} is a hub id, but {Path(model).absolute()} exists as well on the worker.",
            hint="Give its absolute path if you mean that one; else start the worker in another folder.",
            model=model,
        )
    return model


def fingerprint_files(source: str) -> str:
    """What changes when a model's files do, to be asked before it is loaded: their names, sizes and times.

    "" for a hub id, whose `hub_revision` is known once it is loaded.
    """
    if not source.startswith("/"):
        return ""
    root = Path(source)
    files = sorted((str(path.relative_to(root)), path.stat()) for path in root.rglob("*") if path.is_file())
    told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files if "__pycache__" not in name]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def hub_revision(source: str, cache: str | None = None) -> str:
    """The revision of a hub id that lies in the hub's local cache; "" if that cannot be told.

    cache: the folder of that cache; None: the usual one.
    """
    from huggingface_hub import try_to_load_from_cache

    for mark in _MARKS:
        path = try_to_load_from_cache(source, mark, cache_dir=cache)
        if isinstance(path, str):
            return Path(path).relative_to(Path(path).parents[2]).parts[1]
    return ""


def _folder(model: str, locations: Locations) -> str:
    location = locations.resolve(model, error=InvalidParams)
    if not location.is_local:
        raise InvalidParams(
            f"{model!r} is no folder of the worker's machine.",
            hint="Models are loaded from local folders: copy it to one that every worker has.",
            model=model,
        )
    folder = Path(location.path)
    if not folder.is_dir():
        raise InvalidParams(
            f"there is no folder {location.path} on the worker.",
            hint="A folder of models must be there on every worker's machine.",
            model=model,
        )
    if _mark(folder) is None:
        raise InvalidParams(
            f"{location.path} holds no model: neither {' nor '.join(_MARKS)} is in it.",
            hint="Give the folder that save_pretrained() wrote, or one downloaded whole from the hub.",
            model=model,
        )
    return location.path


def _in_package(name: str) -> Path:
    if not name.isidentifier():
        raise InvalidParams(
            f"{PACKAGE}{name} names no package.",
            hint="Expected package:NAME with the name it is imported by: letters, digits and '_'.",
            model=PACKAGE + name,
        )
    root = _package_folder(name)
    found = sorted((mark, len(folder.parts), folder) for folder, mark in _model_folders(root))
    if not found:
        raise InvalidParams(
            f"the package {name} holds no model: no {' or '.join(_MARKS)} up to {_DEPTH} folders below {root}.",
            hint="Use a package that carries a model's weights.",
            model=PACKAGE + name,
        )
    best = [folder for mark, depth, folder in found if (mark, depth) == found[0][:2]]
    if len(best) > 1:
        raise InvalidParams(
            f"the package {name} holds several models: {', '.join(map(str, best))}.",
            hint="Give the absolute path of one of them, below a folder the service may use.",
            model=PACKAGE + name,
        )
    return best[0]


def _package_folder(name: str) -> Path:
    """The folder of an installed top-level package, which is not imported."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module that was put into sys.modules by hand has no spec
        spec = None
    if spec is None or not spec.submodule_search_locations or not spec.origin:
        what = "is a module, not a package with files" if spec and spec.origin else "is not installed on the worker"
        raise InvalidParams(
            f"the package {name} {what}.",
            hint="Name a package with weights that is installed on every worker; or give a folder or a hub id.",
            model=PACKAGE + name,
        )
    return Path(spec.origin).parent


def _model_folders(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders at or below `root` that hold a model, each with the place of its mark in `_MARKS`."""
    level = [root]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            mark = _mark(folder)
            if mark is not None:
                yield folder, mark
            else:
                below += [child for child in folder.iterdir() if child.is_dir() and child.name != "__pycache__"]
        level = below


def _mark(folder: Path) -> int | None:
    return next((place for place, name in enumerate(_MARKS) if (folder / name).is_file()), None)
