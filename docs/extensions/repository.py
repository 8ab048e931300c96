"""Files of the repository as pages of the site, and the links to them.

Pages link to files of the repository by relative paths (`../cpp/README.md`), which are right where Markdown is shown beside
the sources. In the site such a link leads to a page that holds the file: one of `source/`, written before the build, for each
file that is linked; for the two pages of an optimizer it is that optimizer's page of the catalogue.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FOLDER = DOCS / "source"

#: Of pages that are made: Markdown, but none of those that are written by hand and whose blocks of Python are run as tests.
SUFFIX = ".myst"

LANGUAGES = {
    ".cff": "yaml", ".cmake": "cmake", ".cpp": "cpp", ".hpp": "cpp", ".json": "json", ".py": "python", ".pyi": "python",
    ".sh": "bash", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml",
}  # fmt: skip

#: A block of code, code in a line, or a link to a file, whichever comes first; a label may hold code, or one picture.
TOKEN = re.compile(
    r"^(?:```|~~~).*?^(?:```|~~~)\s*?$|`[^`\n]*`"
    r"|(?P<picture>!?)\[(?P<label>(?:[^\[\]`]|`[^`\n]*`|!\[[^\]]*\]\([^)]*\))*)\]"
    r"\((?!https?:|mailto:|#|/)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)

PICTURES = {".jpg", ".png", ".svg"}


def write(path: Path, text: str) -> None:
    """Write a file unless it holds just that, so that Sphinx reads again only what has changed."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


class Links:
    """Turns links to files into links to pages, and notes which pages that takes."""

    def __init__(self, rules: set[str]) -> None:
        self.rules = rules
        self.pages: dict[Path, Path] = {}

    def target(self, path: Path) -> str | None:
        """Return the page that stands for a file, from the root of the documentation; None if it is no file of ours."""
        path = Path(os.path.normpath(path))
        if not path.is_relative_to(ROOT) or not path.exists():
            return None
        if path.is_relative_to(DOCS):
            return "/" + (path / "README.md" if path.is_dir() else path).relative_to(DOCS).as_posix()
        inside = path.relative_to(ROOT)
        is_page = inside.parent.as_posix() == "python/schuss/optimizers" or inside.parts[:2] == ("cpp", "rules")
        if is_page and inside.stem in self.rules:
            return f"/catalogue/{inside.stem}{SUFFIX}"
        if path.is_dir():
            readme = path / "README.md"
            page = self.pages[readme if readme.exists() else path] = FOLDER / inside / f"README{SUFFIX}"
        else:
            page = self.pages[path] = FOLDER / (
                inside.with_suffix(SUFFIX) if inside.suffix == ".md" else f"{inside}{SUFFIX}"
            )
        return "/" + page.relative_to(DOCS).as_posix()

    def rewrite(self, text: str, folder: Path, page: Path) -> str:
        """Return the Markdown of a file in `folder`, shown at `page`, with links that lead to pages of the site."""

        def link(match: re.Match[str]) -> str:
            picture, label, target, anchor = match["picture"], match["label"], match["target"], match["anchor"] or ""
            if target is None:
                return match.group()
            if picture:  # Sphinx copies pictures from wherever they are
                return f"![{label}]({Path(os.path.relpath(folder / target, page.parent)).as_posix()})"
            return f"[{TOKEN.sub(link, label)}]({self.target(folder / target) or target}{anchor})"

        return TOKEN.sub(link, text)

    def write_pages(self) -> None:
        """Write a page for each file that was linked, and for those that these link to."""
        done: set[Path] = set()
        while todo := self.pages.keys() - done:
            for path in sorted(todo):
                done.add(path)
                write(self.pages[path], self.page(path))
        for stale in set(FOLDER.rglob(f"*{SUFFIX}")) - set(self.pages.values()):
            stale.unlink()

    def page(self, path: Path) -> str:
        """Return the page of a file: a text as it is, code as code, of a folder the names in it."""
        name, page = path.relative_to(ROOT).as_posix(), self.pages[path]
        if path.suffix == ".md":
            return "---\norphan: true\n---\n\n" + self.rewrite(path.read_text(encoding="utf-8"), path.parent, page)
        head = f"---\norphan: true\nhide-toc: true\n---\n\n# `{name}`\n\n"
        if path.is_dir():
            return (
                head
                + "\n".join(f"* `{each.name}`" for each in sorted(path.iterdir()) if each.name[0] not in "._")
                + "\n"
            )
        place = Path(os.path.relpath(path, page.parent)).as_posix()
        if path.suffix in PICTURES:
            return f"{head}![{name}]({place})\n"
        language = LANGUAGES.get(path.suffix, "text")
        return f"{head}```{{literalinclude}} {place}\n:language: {language}\n:linenos:\n```\n"
