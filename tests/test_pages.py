"""What the pages in docs/ claim beyond what their blocks assert: quotations, numbers, equality with other packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

beside_sources = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="the sources are not beside the tests")


def fenced(page: str, *languages: str) -> list[str]:
    """Return the code blocks of a page in some languages."""
    return re.findall(
        rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )


# ---- adding.md ------------------------------------------------------------------------------------------------------------


@beside_sources
def test_what_the_walk_through_quotes_is_in_the_tree() -> None:
    """Each block that does not run stands in one of the three files of its optimizer, the rule from end to end."""
    files = ["cpp/rules/elementwise/adamod.hpp", "python/schuss/optimizers/adamod.py", "tests/witnesses/adamod.py"]
    rule, *others = [(ROOT / name).read_text() for name in files]
    assert fenced("adding.md", "cpp") == [rule]
    quoted = fenced("adding.md", "py")
    assert [[block in text for text in others] for block in quoted] == [[True, False], [False, True], [False, True]]


def test_tests_that_pages_name_exist() -> None:
    defined = {name for path in ROOT.glob("tests/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for page in DOCS.glob("*.md"):
        named = set(re.findall(r"`(?:tests/test_\w+\.py::)?(test_\w+)`", page.read_text()))
        assert named <= defined, f"{page.name}: {sorted(named - defined)}"
