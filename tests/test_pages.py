"""What the pages in docs/ claim beyond what their blocks assert: quotations, numbers, equality with other packages."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_docs
from numpy.typing import NDArray
from witnesses import Stepper, from_keras, from_optax, from_torch, installed

import schuss

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

beside_sources = pytest.mark.skipif(not (ROOT / "cpp").is_dir(), reason="the sources are not beside the tests")


def fenced(page: str, *languages: str) -> list[str]:
    """Return the code blocks of a page in some languages."""
    return re.findall(
        rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )


# ---- adding.md ------------------------------------------------------------------------------------------------------------


def quotes(quoted: str, path: str) -> bool:
    """Whether a file has these lines one after the other; the formatter of the page moves methods to the left margin."""
    ours, theirs = (
        "\n".join(line.strip() for line in text.splitlines() if line.strip())
        for text in (quoted, (ROOT / path).read_text())
    )
    return f"\n{ours}\n" in f"\n{theirs}\n"


@beside_sources
def test_what_the_walk_through_quotes_is_in_the_tree() -> None:
    """Each block that does not run stands in one of the three files of its optimizer, the rule from end to end."""
    rule = (ROOT / "cpp/rules/elementwise/adamod.hpp").read_text()
    assert fenced("adding.md", "cpp") == [rule]
    files = "python/schuss/optimizers/adamod.py", "tests/witnesses/adamod.py"
    found = [[quotes(block, file) for file in files] for block in fenced("adding.md", "py")]
    assert found == [[True, False], [False, True], [False, True]]


@beside_sources
def test_both_pages_of_signsgd_are_quoted() -> None:
    (rule,), (reference,) = fenced("how_it_works.md", "cpp"), fenced("how_it_works.md", "py")
    assert quotes(rule, "cpp/rules/elementwise/signsgd.hpp")
    assert quotes(reference, "python/schuss/optimizers/signsgd.py")


def test_tests_that_pages_name_exist() -> None:
    defined = {name for path in ROOT.glob("tests/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for page in DOCS.glob("*.md"):
        named = set(re.findall(r"`(?:tests/test_\w+\.py::)?(test_\w+)`", page.read_text()))
        assert named <= defined, f"{page.name}: {sorted(named - defined)}"


# ---- start.md -------------------------------------------------------------------------------------------------------------

Server = Callable[[int, NDArray[Any], dict[str, Any], NDArray[Any]], NDArray[Any]]


def flower_adagrad(t: int, x: NDArray[Any], s: dict[str, Any], delta: NDArray[Any]) -> NDArray[Any]:
    s["v"] = s.get("v", 0.0) + delta**2
    return x + 0.1 * delta / (np.sqrt(s["v"]) + 1e-3)


def flower_adam(t: int, x: NDArray[Any], s: dict[str, Any], delta: NDArray[Any]) -> NDArray[Any]:
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * delta
    s["v"] = 0.99 * s.get("v", 0.0) + 0.01 * delta**2
    rate = 0.1 * np.sqrt(1 - 0.99 ** (t + 1.0)) / (1 - 0.9 ** (t + 1.0))
    return x + rate * s["m"] / (np.sqrt(s["v"]) + 1e-3)


def flower_yogi(t: int, x: NDArray[Any], s: dict[str, Any], delta: NDArray[Any]) -> NDArray[Any]:
    v = s.get("v", np.zeros_like(x))
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * delta
    s["v"] = v - 0.01 * delta**2 * np.sign(v - delta**2)
    return x + 0.1 * s["m"] / (np.sqrt(s["v"]) + 1e-3)


def flower_avg_m(t: int, x: NDArray[Any], s: dict[str, Any], delta: NDArray[Any]) -> NDArray[Any]:
    s["m"] = 0.9 * s["m"] + delta if "m" in s else delta
    return x + s["m"]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fed_adagrad", flower_adagrad),
        ("fed_adam", flower_adam),
        ("fed_yogi", flower_yogi),
        ("fed_avg_m", flower_avg_m),
    ],
)
def test_rules_of_flower(name: str, theirs: Server, rng: np.random.Generator) -> None:
    """The functions of the page against the formulas of flwr 1.42, rounds counted from 1."""
    page = DOCS / "start.md"
    block = next((line, text) for line, text in test_docs.blocks(page) if "def fed_adam(" in text)
    alone = block[0], block[1].split("delta = ")[0]
    namespace = test_docs.run(page, [alone], {"__name__": "start", "schuss": schuss, "np": np})
    opt = namespace[name]({"w": np.zeros((3, 4))})
    x, state = np.zeros((3, 4)), dict[str, Any]()
    for t in range(1, 21):
        delta = rng.standard_normal((3, 4))
        opt.step({"w": delta})
        x = theirs(t, x, state, delta)
        np.testing.assert_allclose(opt.params["w"], x, rtol=1e-12, atol=1e-14)


FIRST = [
    next((line, text) for line, text in test_docs.blocks(DOCS / "start.md") if line > number)
    for number, text in enumerate((DOCS / "start.md").read_text().splitlines(), 1)
    if text.startswith("## ")
]


@pytest.mark.parametrize("block", FIRST, ids=lambda block: f"line {block[0]}")
def test_the_first_block_of_each_section_is_a_program(
    block: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in test_docs.needs(block[1]):
        pytest.importorskip(package)
    test_docs.run(DOCS / "start.md", [block], {"__name__": "start"})


# ---- coming_from.md -------------------------------------------------------------------------------------------------------

STEPPERS = {
    "torch": from_torch,
    "optax": lambda package, build: from_optax(build),
    "keras": lambda package, build: from_keras(build),
}


def table_under(heading: str) -> list[tuple[str, str]]:
    """Return the code in the first two cells of each row of the tables that follow a line."""
    text = (DOCS / "coming_from.md").read_text()
    tables = re.findall(rf"^{heading}:\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [match for table in tables for match in re.findall(r"^\| `(.+?)` \| `(.+?)`", table, re.MULTILINE)]


SAME, OTHER = table_under("The same numbers"), table_under("Other numbers")


def apart(theirs: str, ours: str, rng: np.random.Generator) -> float:
    """Return by how much, at most, 30 steps of both part, in units of the largest number."""
    package = theirs.split(".")[0]
    with installed(package):
        start = [rng.standard_normal(shape) for shape in [(4, 3), (5,), (2, 3, 2)]]
        if package == "torch":

            def build(module: Any, tensors: Any) -> Any:
                return eval(theirs, {"torch": module, "w": tensors})
        else:

            def build(module: Any) -> Any:  # type: ignore[misc]
                return eval(theirs, {package: module})

        peer: Stepper = STEPPERS[package](package, build)(start)
        opt = eval(ours, {"schuss": schuss, "w": [p.copy() for p in start]})
        largest = 0.0
        for _ in range(30):
            grads = [rng.standard_normal(p.shape) for p in start]
            peer.step(grads)
            opt.step(grads)
            for a, b in zip(opt.params, peer.params, strict=True):
                largest = max(largest, np.abs(a - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
    return float(largest)


@pytest.mark.peers
@pytest.mark.parametrize(("theirs", "ours"), SAME)
def test_the_same_numbers(theirs: str, ours: str, rng: np.random.Generator) -> None:
    assert apart(theirs, ours, rng) <= 1e-12


@pytest.mark.peers
@pytest.mark.parametrize(("theirs", "ours"), OTHER)
def test_other_numbers(theirs: str, ours: str, rng: np.random.Generator) -> None:
    assert 1e-9 < apart(theirs, ours, rng) < np.inf


def test_the_tables_are_read() -> None:
    assert {line.split(".")[0] for line, _ in SAME} == set(STEPPERS)
    assert {line.split(".")[0] for line, _ in OTHER} == {"optax", "keras"}
    assert len(SAME) > 30
    assert len(OTHER) > 10


@pytest.mark.peers
def test_every_class_of_torch_is_in_the_table() -> None:
    """Those that a witness compares, and those that the page says something else about."""
    with installed("torch") as torch:
        theirs = {name for name, cls in vars(torch.optim).items() if isinstance(cls, type) and name != "Optimizer"}
    rows = {line.split("(")[0].removeprefix("torch.optim.") for line, _ in SAME if line.startswith("torch.")}
    text = (DOCS / "coming_from.md").read_text()
    assert theirs - rows == {name for name in ("LBFGS", "Muon", "SparseAdam") if name in text}


@pytest.mark.peers
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_solvers_of_scikit_learn(solver: str, rng: np.random.Generator) -> None:
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    (ours,) = re.findall(rf'^\| `solver="{solver}"` \| `(.+?)` \|', (DOCS / "coming_from.md").read_text(), re.MULTILINE)
    theirs = [rng.standard_normal((3, 4)), rng.standard_normal(4)]
    opt = eval(ours, {"schuss": schuss, "w": [p.copy() for p in theirs]})
    peer = {"adam": optimizers.AdamOptimizer, "sgd": optimizers.SGDOptimizer}[solver](theirs, learning_rate_init=1e-3)
    for _ in range(30):
        grads = [rng.standard_normal(p.shape) for p in theirs]
        peer.update_params(theirs, grads)
        opt.step(grads)
        for a, b in zip(opt.params, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


# ---- performance.md -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "bench/results").is_dir(), reason="the results are not in the sdist")
def test_figures_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    page = importlib.import_module("page")
    texts = [each.read_text() for each in page.PAGES]
    assert [page.written(text) for text in texts] == texts, "run python bench/page.py"
    assert re.findall(r"<!-- table: (\w+) -->", "".join(texts)) == list(page.TABLES)
    prose = re.sub(r"<!-- table.*?<!-- end -->|^```.*?^```$", "", texts[0], flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\d[\d.]* ?(?:%|ms|µs|ns|GB/s|times)", prose) == [], (
        "figures stand in the tables, which the files make"
    )


@pytest.mark.skipif(not (ROOT / "bench/results").is_dir(), reason="the results are not in the sdist")
def test_steps_with_factors_cost_a_hundred_times_adamw() -> None:
    assert "a step costs a hundred times AdamW's and more" in (DOCS / "choosing.md").read_text()
    rows = json.loads((ROOT / "bench/results/amortised.json").read_text())["results"]
    assert {row["optimizer"] for row in rows} == {"Shampoo", "SOAP"}
    assert all(row["mean"] / row["adamw"] > 100 for row in rows)


def test_which_the_race_tells_from_the_best() -> None:
    """What the page on choosing says of the digits: who is more than two standard errors of a difference below the best."""
    page = (DOCS / "choosing.md").read_text()
    shares = {name: float(share) for name, share in re.findall(r"^\| `(\w+)` \|.* ([\d.]+)% \|", page, re.MULTILINE)}
    assert len(shares) > 20
    median = float(np.median(list(shares.values())))
    error = np.sqrt(median * (100 - median) / 450)
    prose = " ".join(page.split())
    assert f"standard error of a share is {error:.1f} per cent" in prose
    worse = {name for name, share in shares.items() if share < max(shares.values()) - 2 * np.sqrt(2) * error}
    (said,) = re.findall(r"tells none from the best but (.*?)\. ", prose)
    assert worse == set(re.findall(r"`(\w+)`", said))
