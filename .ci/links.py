"""Fail where a page of a built site leads to a file or an anchor of the site that is not there. Usage: links.py FOLDER."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page leads to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.targets.append(value)


def dead(site: Path) -> list[str]:
    """Return the links of all pages that lead nowhere."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    found, links = [], 0
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            links += 1
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not to.is_relative_to(site) or not to.is_file():
                found.append(f"{path.relative_to(site)}: {target} is not there")
            elif anchor and to in pages and anchor not in pages[to].anchors:
                found.append(f"{path.relative_to(site)}: {target} has no such anchor")
    print(f"{len(pages)} pages, {links} links within the site")
    if not pages:
        found.append(f"{site} has no pages")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(dead(Path(sys.argv[1]).resolve())) or None)
