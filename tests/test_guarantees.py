"""docs/guarantees.md names tests that exist, and leaves out no promise."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/guarantees.md"
TEST = re.compile(r"`((?:tests|\.ci)/\w+\.py)::([\w:]+)`")
PROGRAM = re.compile(r"`((?:fuzz|\.ci)/[\w.]+)(?: (\w+))?`")
GROUPS = [
    "Numbers",
    "Memory",
    "Errors",
    "Checkpoints",
    "Threads and processes",
    "Instruction sets",
    "Scale",
    "Packaging",
    "What we do not promise",
]


def groups(text: str) -> dict[str, list[str]]:
    """Return the promises of each group, which are the items of its list."""
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    found = {}
    for part in parts:
        title, body = part.split("\n", 1)
        found[title] = [" ".join(item.split()) for item in re.split(r"^\* ", body, flags=re.MULTILINE)[1:]]
    return found


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Return the tests of a file, as pytest names them, without importing it."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return frozenset(name for name in found if name.split("::")[-1].startswith("test_"))


def is_program(file: str, section: str) -> bool:
    """Tell whether a program outside of pytest exists, and has such a section."""
    path = ROOT / file
    return path.exists() and (not section or f"\nsection_{section}()" in path.read_text(encoding="utf-8"))


def missing(text: str) -> list[str]:
    """Return what the text names as tests or programs and is none. (A source distribution has no .ci.)"""
    return [
        f"{file}::{name}"
        for file, name in TEST.findall(text)
        if (ROOT / file).parent.exists() and not ((ROOT / file).exists() and name in names_in(ROOT / file))
    ] + [
        f"{file} {section}".strip()
        for file, section in PROGRAM.findall(text)
        if (ROOT / file).parent.exists() and not is_program(file, section)
    ]


PROMISES = groups(PAGE.read_text(encoding="utf-8"))
HELD = [(group, promise) for group, promises in PROMISES.items() for promise in promises if group != GROUPS[-1]]


def test_the_groups() -> None:
    assert list(PROMISES) == GROUPS
    assert all(PROMISES.values())


@pytest.mark.parametrize(("group", "promise"), HELD, ids=[f"{group}: {promise:.40}" for group, promise in HELD])
def test_a_promise_is_held_by_tests_that_exist(group: str, promise: str) -> None:
    sentence, _, rest = promise.partition(" (P")
    assert sentence.endswith("."), "a promise is sentences, followed by its numbers in brackets and its tests"
    assert TEST.search(rest), "no test holds it"
    assert not missing(promise)


def test_what_is_not_promised_names_tests_that_exist() -> None:
    assert not missing(" ".join(PROMISES[GROUPS[-1]]))


def test_every_promise_of_the_twelve_is_held() -> None:
    said = {number for _, promise in HELD for number in re.findall(r"\bP\d+\b", promise)}
    assert said == {f"P{number}" for number in range(1, 13)}
    introduction = PAGE.read_text(encoding="utf-8").split("\n## ")[0]
    assert set(re.findall(r"\bP\d+\b", introduction)) == said


def test_a_test_that_is_renamed_is_missed() -> None:
    here = f"tests/{Path(__file__).name}"
    assert missing(f"`{here}::test_the_groups`, `{here}::test_the_herds`, `tests/test_none.py::test_it`") == [
        f"{here}::test_the_herds",
        "tests/test_none.py::test_it",
    ]


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="a source distribution has no .ci")
def test_a_program_that_is_renamed_is_missed() -> None:
    assert missing("`fuzz/plan.cpp`, `fuzz/plane.cpp`, `.ci/run races`, `.ci/run rates`") == [
        "fuzz/plane.cpp",
        ".ci/run rates",
    ]


def test_the_pages_are_linked() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/guarantees.md)" in readme
    assert "(SECURITY.md)" in readme
