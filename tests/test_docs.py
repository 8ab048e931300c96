"""What is shown runs: the examples of every docstring, and the Python blocks of the README and of each page in docs/."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import witnesses  # noqa: F401  (chooses the backend of keras before it is imported)

import schuss

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules() -> list[ModuleType]:
    """Return the package and all its modules."""
    found = pkgutil.walk_packages(schuss.__path__, "schuss.")
    return [schuss, *(importlib.import_module(module.name) for module in found)]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in modules() for test in finder.find(module, extraglobs={"np": np, "schuss": schuss})]
    return [test for test in found if test.examples]


def public() -> list[tuple[str, Any]]:
    """Return classes and functions of the package's interface, and the public methods of the classes."""
    found: list[tuple[str, Any]] = []
    for name in dir(schuss):
        value = getattr(schuss, name)
        names = getattr(value, "__all__", []) if inspect.ismodule(value) else []
        for each, member in [(name, value), *((f"{name}.{inner}", getattr(value, inner)) for inner in names)]:
            if inspect.isclass(member) or inspect.isroutine(member):
                found.append((each, member))
            if inspect.isclass(member):
                methods = [(m, f) for m, f in vars(member).items() if not m.startswith("_")]
                found += [(f"{each}.{m}", f) for m, f in methods if callable(f) or isinstance(f, property)]
    return found


@pytest.mark.parametrize("test", examples(), ids=lambda test: test.name)
def test_examples_of_docstrings(test: doctest.DocTest) -> None:
    printed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(test, out=printed.append)
    assert runner.failures == 0, "".join(printed)


@pytest.mark.parametrize(("name", "member"), public(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_interface_is_documented(name: str, member: Any) -> None:
    """Public classes, functions and methods have a docstring whose first line is a sentence."""
    text = inspect.getdoc(member)
    assert text, f"{name} has no docstring"
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), f"{name}: {first}"


def blocks(path: Path) -> list[tuple[int, str]]:
    """Return the Python blocks of a Markdown file with the lines they start at."""
    text = path.read_text()
    return [
        (text[: match.start(1)].count("\n"), match.group(1))
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


PAGES = [ROOT / "README.md", *(page for page in sorted(ROOT.glob("docs/**/*.md")) if blocks(page))]

#: "# needs torch" in a block names what must be installed for it, and for the blocks after it that use what it made.
NEEDS = re.compile(r"# needs (\w+(?:, \w+)*)$", re.MULTILINE)


def needs(block: str) -> list[str]:
    return [package for found in NEEDS.findall(block) for package in found.split(", ")]


def run(page: Path, chosen: list[tuple[int, str]], namespace: dict[str, Any]) -> dict[str, Any]:
    """Run blocks; what is printed must be what the comment behind the call shows, if that is not prose."""
    lines = page.read_text().splitlines()
    checker = doctest.OutputChecker()

    def shown(*values: Any) -> None:
        number = sys._getframe(1).f_lineno
        got, (_, _, comment) = " ".join(map(str, values)), lines[number - 1].rpartition("  # ")
        if comment and not (comment[0].islower() or lines[number - 1].endswith(")")):
            assert checker.check_output(comment, got, OPTIONS), f"{page.name}:{number} prints {got}"

    namespace["print"] = shown
    for line, block in chosen:
        # Empty lines in front give a traceback the line numbers of the file.
        exec(compile("\n" * line + block, str(page), "exec", dont_inherit=True), namespace)
    return namespace


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks run, one after the other, in an empty directory; but for those that need packages which others do not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    found = [(line, block) for line, block in blocks(page) if not needs(block)]
    assert found, f"{page.name} shows no Python"
    if any(".plot(" in block for _, block in found):
        pytest.importorskip("matplotlib")
    run(page, found, {"__name__": page.stem})


@pytest.mark.peers
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(needs(block) for _, block in blocks(page))], ids=lambda page: page.name
)
def test_pages_beside_other_packages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks run, those that need other packages as well."""
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    with ExitStack() as after:
        for package in sorted({package for _, block in found for package in needs(block)}):
            module = pytest.importorskip(package)
            if package == "jax":
                after.callback(module.config.update, "jax_enable_x64", module.config.jax_enable_x64)
            if package == "keras":
                after.callback(module.config.set_floatx, module.config.floatx())
        run(page, found, {"__name__": page.stem})


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`(?!\])", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub and MyST give the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_no_page_without_an_example(page: Path) -> None:
    """Every page that is written by hand shows Python that runs; the catalogue is printed by a program."""
    assert blocks(page) or page.name == "catalogue.md", f"{page.name} shows no Python"


def test_links_of_markdown_files() -> None:
    """What a page of ours links to within the repository is there, headings too."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("cpp/*.md"), *ROOT.glob("docs/**/*.md")]
    assert pages
    for page in pages:
        for target, heading in re.findall(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", without_code(page)):
            path = (page.parent / target).resolve() if target else page
            in_sdist = not path.is_relative_to(ROOT / "bench/results") or (ROOT / "bench/results").exists()
            assert path.exists() or not in_sdist, f"{page.name} links to {target}"
            assert not heading or heading in anchors(path), f"{page.name} links to {target}#{heading}"
