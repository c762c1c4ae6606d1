"""Describe the fields of a `TypedDict` by the `Args` of its docstring.

Griffe's own extension puts the fields into the signature of a function that takes them as `**options`, with the
docstring of each field. The fields of `JobOptions` are described in one docstring, which is also read at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from griffe import Docstring, DocstringSectionKind, Extension

if TYPE_CHECKING:
    from griffe import Class


class DescribedOptions(Extension):
    """Runs while modules are read, before `unpack_typeddict` looks at any function."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Give each field that the docstring describes a docstring of its own."""
        if not cls.docstring or not any(str(base) == "TypedDict" for base in cls.bases):
            return
        for section in cls.docstring.parse("google", warnings=False):
            if section.kind is DocstringSectionKind.parameters:
                for field in section.value:
                    cls.attributes[field.name].docstring = Docstring(field.description)
