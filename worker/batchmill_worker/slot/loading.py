"""Imports the modules that register operators: those of installed packages, and those in the worker's settings."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import InvalidOperator
from batchmill.operators.registration import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.operators.registration import OperatorRegistry

GROUP = "batchmill.operators"
"""The entry-point group of installed operators; the values are names of modules."""


def load_operators(modules: Sequence[str] = ()) -> OperatorRegistry:
    """Import the installed operators and the named modules, and return the registry they are in.

    The current folder comes last on the path, after the standard library and the installed packages: a module there
    can be named, and no file there takes the place of a library's module.

    Raises `InvalidOperator` for a module that cannot be imported, or that registers no operator.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        source = f"the entry point {entry.name!r} of {entry.dist.name if entry.dist else 'an installed package'}"
        _load(entry.module, source, f"Reinstall or remove the package; its entry point is in the group {GROUP}.")
    if modules:
        _put_current_folder_on_path()
    for module in modules:
        _load(module, "the worker's settings", "Correct the worker's list of operator modules.")
    return REGISTRY


def _put_current_folder_on_path() -> None:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


def _load(module: str, source: str, hint: str) -> None:
    if module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        raise InvalidOperator(
            f"{module!r}, named by {source}, is no module name.",
            hint="Give it as in an import statement: package.module, without a path and without .py.",
            module=module,
        )
    before = {definition.name for definition in REGISTRY}
    try:
        importlib.import_module(module)
    except InvalidOperator:
        raise
    except BaseException as error:
        raise _import_error(module, source, error) from error
    if before == {definition.name for definition in REGISTRY} and not _registered_before(module):
        raise InvalidOperator(
            f"module {module!r}, named by {source}, registers no operator.",
            hint=_shadowed(module) or f"Decorate a function or class in it with @batchmill.operator(...). {hint}",
            module=module,
        )


def _shadowed(module: str) -> str:
    """What to do when a module of the current folder has the name of an installed one, which comes first."""
    name = module.partition(".")[0]
    here = [path for path in (Path.cwd() / f"{name}.py", Path.cwd() / name) if path.exists()]
    found = getattr(sys.modules.get(name), "__file__", None) or "the standard library"
    if not here or Path(found).is_relative_to(Path.cwd()):
        return ""
    return f"{found} has the same name as {here[0]} and comes before it: rename yours."


def _import_error(module: str, source: str, error: BaseException) -> InvalidOperator:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (module + ".").startswith(missing + "."):
        hint = f"There is no module {missing!r} in {Path.cwd()} or among the installed packages."
    elif missing:
        hint = f"It imports {missing!r}: install that on the worker."
    else:
        hint = f"Try it by itself: python -c 'import {module}'."
    return InvalidOperator(
        f"module {module!r}, named by {source}, could not be imported: {type(error).__name__}: {error}.",
        hint=hint,
        module=module,
    )


def _registered_before(module: str) -> bool:
    """Whether an earlier import of the module, or of one below it, registered an operator."""
    homes = [inspect.unwrap(definition.make).__module__ for definition in REGISTRY]
    return any(home == module or home.startswith(module + ".") for home in homes)
