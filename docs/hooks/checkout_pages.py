"""Pages of the checkout that are not in docs/, as pages of the site; and every decision in the navigation.

Their links are those of files on GitHub, so each is rewritten to the page that its target has here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "changelog.d/README.md": "changelog-notes.md",
    "LICENSE": "license.md",
    "examples/README.md": "examples.md",
}
"""What a file of the checkout is called here."""

DECISIONS = "decisions/"
"""The entry of the navigation that all decisions take the place of."""

_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions in the navigation, in order."""
    folder = Path(config.docs_dir) / DECISIONS
    pages = [f"{DECISIONS}README.md", *(f"{DECISIONS}{path.name}" for path in sorted(folder.glob("0*.md")))]
    config.nav = _with_decisions(config.nav, pages)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    root = Path(config.docs_dir).parent
    for source, page in PAGES.items():
        text = (root / source).read_text()
        content = page_of(source, text) if source.endswith(".md") else f"# License\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links that leave docs/ lead to the pages of the checkout."""
    here = posixpath.dirname(page.file.src_uri)

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", here, link[2]))
        if target not in PAGES:
            return link[0]
        return f"{link[1]}{posixpath.relpath(PAGES[target], here or '.')}{link[3] or ''}{link[4]}"

    return _LINK.sub(rewritten, markdown)


def page_of(source: str, text: str) -> str:
    """The text of a file of the checkout, with links between pages of the site."""
    folder = posixpath.dirname(source)

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        page = PAGES.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{page}{link[3] or ''}{link[4]}"

    return _LINK.sub(rewritten, text)


def _with_decisions(entry: Any, pages: list[str]) -> Any:
    match entry:
        case list():
            return [_with_decisions(part, pages) for part in entry]
        case dict():
            return {title: _with_decisions(part, pages) for title, part in entry.items()}
        case str() if entry == DECISIONS:
            return pages
    return entry
