"""Where a model's weights are stored: in an installed package, in a folder, or on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import InvalidParams
from batchmill.storage.hub_models import is_hub_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.storage.locations import Locations

PACKAGE = "package:"
_MARKS = ("modules.json", "config.json")
"""The files that identify a model folder; the first also defines how to pool the model's output."""
_DEPTH = 2
"""How many levels of folders of a package are searched."""
_MAX_ENTRIES = 10_000
_FORMS = "Expected a hub id (organisation/name), an absolute folder, or package:NAME."
_ONLY_GGUF = (
    'It carries weights for llama.cpp (*.gguf) only: the operators chat and generate run them with engine="llamacpp".'
)


def locate_model(model: str, locations: Locations) -> str:
    """Return what to load a model from: the path of an existing folder, or the hub id unchanged.

    Raises `InvalidParams` if there is no such package or folder, if a folder is outside the roots that users may name,
    or if the text has none of the three forms; it says what was looked for, and where.
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


def refuse_outer_links(folder: str, locations: Locations) -> None:
    """Raise `InvalidParams` for a link in a model's folder that leads out of the roots: libraries follow it.

    So does one in a folder that a link leads to. A folder with more than `_MAX_ENTRIES` entries is refused, too.
    """
    entries, visited = 0, set[str]()
    for place, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(place))
        entries += len(folders) + len(files)
        if entries > _MAX_ENTRIES:
            raise InvalidParams(
                f"{folder} has over {_MAX_ENTRIES:,} files and folders, which no model has.",
                hint="Give the folder of the model itself, not one above it.",
                path=folder,
            )
        for name in (*folders, *files):
            path = os.path.join(place, name)  # noqa: PTH118  # os.walk gives texts
            if os.path.islink(path):  # noqa: PTH114  # as above
                locations.resolve(path, error=InvalidParams)
        folders[:] = [name for name in folders if os.path.realpath(f"{place}/{name}") not in visited]


def fingerprint_files(source: str) -> str:
    """Return a digest of the names, sizes and times of a model's files. Call it before the model is loaded.

    "" for a hub id, whose `hub_revision` is known after it is loaded.
    """
    if not source.startswith("/"):
        return ""
    root = Path(source)
    files = sorted((str(path.relative_to(root)), path.stat()) for path in root.rglob("*") if path.is_file())
    described = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files if "__pycache__" not in name]
    return hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()


def content_digest(source: str) -> str:
    """Return a digest of the content of a model's files, or the revision of a hub id.

    Raises `LookupError` if the revision is unknown.
    """
    if not source.startswith("/"):
        revision = hub_revision(source)
        if not revision:
            raise LookupError(f"the loaded revision of {source!r} is unknown")
        return f"{source} {revision}"
    root = Path(source)
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hub_revision(source: str, cache: str | None = None) -> str:
    """Return the revision of a hub id in the hub's local cache; "" if it is unknown.

    cache: the folder of that cache; None: the default one.
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
            f"{location.path} contains no model: neither {' nor '.join(_MARKS)} is in it.",
            hint="Give the folder that save_pretrained() wrote, or a complete download from the hub.",
            model=model,
        )
    refuse_outer_links(location.path, locations)
    return location.path


def _in_package(name: str) -> Path:
    root = package_folder(name)
    found = sorted((mark, len(folder.parts), folder) for folder, mark in _model_folders(root))
    if not found:
        raise InvalidParams(
            f"the package {name} contains no model: no {' or '.join(_MARKS)} up to {_DEPTH} folders below {root}.",
            hint=_ONLY_GGUF if any(root.rglob("*.gguf")) else "Use a package that carries a model's weights.",
            model=PACKAGE + name,
        )
    best = [folder for mark, depth, folder in found if (mark, depth) == found[0][:2]]
    if len(best) > 1:
        raise InvalidParams(
            f"the package {name} contains several models: {', '.join(map(str, best))}.",
            hint="Give the absolute path of one of them, below a folder the service may use.",
            model=PACKAGE + name,
        )
    return best[0]


def package_folder(name: str) -> Path:
    """Return the folder of an installed top-level package, without importing it. Raises `InvalidParams`."""
    if not name.isidentifier():
        raise InvalidParams(
            f"{PACKAGE}{name} names no package.",
            hint="Expected package:NAME with the name it is imported by: letters, digits and '_'.",
            model=PACKAGE + name,
        )
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
    """Yield the folders at or below `root` that contain a model, each with the index of its file in `_MARKS`."""
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
