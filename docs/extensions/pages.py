"""The pages that are made from the sources: the catalogue, the reference of the interface, files that pages link to.

Nothing is listed here: optimizers come from `schuss.optimizers()`, the interface from `__all__` and the modules' docstrings,
benchmarks from `bench/results`, witnesses from `tests/witnesses`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from numpydoc.docscrape import ClassDoc
from repository import DOCS, ROOT, SUFFIX, Links, write
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from trajectories import Trajectory, trajectory

import schuss
from schuss import catalogue
from schuss.hyperparameters import Hyperparameter

CATALOGUE, API = DOCS / "catalogue", DOCS / "api"
PICTURES = CATALOGUE / "pictures"

links = Links({cls.rule for cls in schuss.optimizers().values()})

# ------------------------------------------------------------------------------------------------ catalogue


def sources(cls: type[schuss.Optimizer]) -> tuple[Path, Path]:
    """Return the two pages of an optimizer: its class and its rule."""
    (rule,) = ROOT.glob(f"cpp/rules/*/{cls.rule}.hpp")
    return ROOT / f"python/schuss/optimizers/{cls.rule}.py", rule


def python_side(path: Path) -> str:
    """Return what an optimizer's module computes in a step: its reference, the work between sweeps, and what these call."""
    text = path.read_text(encoding="utf-8")
    functions: dict[str, tuple[ast.FunctionDef, int]] = {}
    for node in ast.parse(text).body:
        for each in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(each, ast.FunctionDef):
                functions[each.name] = each, each.col_offset
    wanted = ["before", "between", "after", "reference"]
    for name in wanted:
        called = ast.walk(functions[name][0]) if name in functions else ()
        names = [getattr(each, "id", getattr(each, "attr", "")) for each in called]
        wanted += [each for each in dict.fromkeys(names) if each in functions and each not in wanted]
    shown = []
    for name, (function, indent) in functions.items():
        if name in wanted:
            first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
            shown.append("\n".join(line[indent:] for line in text.splitlines()[first - 1 : function.end_lineno]))
    return "\n\n".join(shown)


def cpp_side(path: Path) -> str:
    """Return a rule's file without its includes and namespaces."""
    found = re.search(r"^namespace \{\n\n(.*)\n\n\}  // namespace\n", path.read_text(encoding="utf-8"), re.M | re.S)
    assert found, path
    return found.group(1)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table, and none where it has no rows."""
    if not rows:
        return []
    cells = [head, ["---"] * len(head), *rows]
    return ["", *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells), ""]


def number(value: object) -> str:
    """Return a default as code would have it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def defaults(cls: type[schuss.Optimizer]) -> list[str]:
    """Return what an optimizer takes beside the options of all: defaults, ranges and meanings."""
    base = schuss.Optimizer
    numbers: dict[str, Hyperparameter] = {
        name: each for name, each in cls.hyperparameters.items() if name not in vars(base)["__annotations__"]
    }
    rows = [[f"`{name}`", f"`{number(each.default)}`", str(each.domain), each.doc] for name, each in numbers.items()]
    documented = {name.strip(): each for each in ClassDoc(cls)["Parameters"] for name in each.name.split(",")}
    for name, default in cls.options.items():
        if name not in base.options:
            meaning = re.split(r"(?<=[.:;]) ", " ".join(documented[name].desc))[0].rstrip(".:;")
            meaning = re.sub(r":math:`([^`]+)`", r"$\1$", meaning)
            meaning = meaning[0].lower() + meaning[1:] if meaning[1:2].islower() else meaning
            rows.append([f"`{name}`", f"`{default!r}`", documented[name].type.removesuffix(", optional"), meaning])
    return table(["argument", "default", "range", "meaning"], rows)


def milliseconds(seconds: float) -> str:
    """Return a time with three digits."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def times(entry: dict[str, Any]) -> str:
    """Return a ratio with its interval."""
    ratio, low, high = (
        f"{value:.2f}" if value < 10 else f"{float(f'{value:.2g}'):,g}"
        for value in (entry["ratio"], entry["low"], entry["high"])
    )
    return f"{ratio} [{low}, {high}]"


def threads(entry: dict[str, Any]) -> str:
    """Return how many threads a step ran on, and how many it might have."""
    used, allowed = entry.get("threads"), entry.get("threads_allowed")
    return f"{used} of {allowed}" if used != allowed and used and allowed else str(used or "")


@cache
def results() -> list[tuple[str, dict[str, Any]]]:
    """Return the committed results of benchmarks by the names of their files."""
    return [(path.name, json.loads(path.read_text())) for path in sorted((ROOT / "bench/results").glob("*.json"))]


def bench_rows(name: str) -> tuple[list[list[str]], set[tuple[str, str, str, str]]]:
    """Return an optimizer's rows of all benchmarks, and what they were measured on and when."""
    rows, runs = [], set()
    for file, result in results():
        for each in result["results"]:
            if each.get("optimizer") != name or not (seconds := each.get("seconds", each.get("mean"))):
                continue
            peers = dict(each.get("peers", each.get("measures", {})))
            roofline = each.get("roofline") or peers.pop("roofline", None) or {}
            share = roofline.get("share") or (1 / roofline["ratio"] if "ratio" in roofline else None)
            where = each.get("title") or "a matrix of " + each.get(
                "workload", "x".join(map(str, each.get("shape", [])))
            )
            where += f", a refresh every {each['frequency']} steps" if "frequency" in each else ""
            options = ", ".join(f"{key}={value}" for key, value in (each.get("options") or {}).items())
            others = "<br>".join(f"{peer} {times(entry)}" for peer, entry in peers.items() if "ratio" in entry)
            rows.append([
                re.sub(r"(\d)x(\d)", r"\1 by \2", where),
                f"`{options}`" if options else "",
                threads(each),
                milliseconds(seconds),
                f"{share:.0%}" if share else "",
                others,
                f"`{file}`",
            ])  # fmt: skip
            machine = result["machine"]
            on = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
            runs.add((file, on, result["date"][:10], result["benchmark"]))
    return rows, runs


def speed(name: str) -> list[str]:
    """Return the section of the benchmarks."""
    rows, runs = bench_rows(name)
    lines = ["## Speed", ""]
    if not rows:
        return [*lines, f"No result in `bench/results`. `python bench/step.py --optimizers {name}` measures it.", ""]
    head = ["workload", "options", "threads", "a step", "of the roofline", "times as long take", "file"]
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines += table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])
    machines = sorted({on for _, on, _, _ in runs})
    dates = sorted({date for _, _, date, _ in runs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    programs = " and ".join(f"`{program}`" for program in sorted({program for *_, program in runs}))
    return [
        *lines,
        f"Measured on {' and '.join(machines)}, {when}, by {programs}: medians, of ratios with the interval of the median. The",
        "roofline is a loop that moves the same bytes, and in cache takes the same divisions and roots; the files are in",
        "`bench/results`.",
        "",
    ]


def compared(rule: str) -> list[str]:
    """Return the section of the witnesses."""
    module: Any = importlib.import_module(f"witnesses.{rule}")
    lines = ["## Compared with", ""]
    torch = getattr(module, "TORCH", None)
    found = dict.fromkeys(f"`torch.optim.{each.theirs}`" for each in (torch.all if torch else ()))
    for witness in getattr(module, "WITNESSES", []):
        script = witness.package == "script"
        found["a script written from the paper" if script else f"`{witness.source}`"] = None
    file = ROOT / f"tests/witnesses/{rule}.py"
    if reason := getattr(module, "NONE", ""):
        lines.append(f"No independent implementation: {reason}")
    else:
        names = "; ".join(found)
        lines.append(f"{names[0].upper()}{names[1:]}, over 30 steps in float64:")
        lines.append(f"[`tests/witnesses/{rule}.py`]({links.target(file)}).")
    return [*lines, ""]


def own_methods(cls: type[schuss.Optimizer]) -> list[str]:
    """Return the methods that users call beside those of every optimizer: the others have no example."""
    names = sorted(set(dir(cls)) - set(dir(schuss.Optimizer)))
    return [name for name in names if name[0] != "_" and "\nExamples\n" in (inspect.getdoc(getattr(cls, name)) or "")]


def rate_in_words(rate: str) -> str:
    """Return what the caption says of a learning rate."""
    if not rate:
        return "which has no learning rate"
    return f"`lr={rate.split()[0]}`, {'falling to zero along half a cosine' if rate.endswith('cos') else 'constant'}"


def optimizer_page(cls: type[schuss.Optimizer], drawn: Trajectory) -> str:
    """Return the page of an optimizer."""
    entry, (page, rule) = catalogue.describe(cls), sources(cls)
    source = entry.source
    paper = f"[{source.title or source}]({source.link})" if source.link else source.title
    facts = {
        "Kind": entry.kind,
        "State": f"{entry.state_bytes:g} bytes per float32 parameter",
        "From": f"{source}, {paper}" if source.year else paper,
        "Takes": ", ".join(["`grads`", *(f"`{name}`" for name in entry.inputs)]),
        "Equals its reference": "bit for bit" if cls.exact else "as far as the products of BLAS repeat",
    }
    way, loss = (f"pictures/{picture}" for picture in drawn.pictures)
    words = (
        f"{drawn.problem}, {drawn.steps} steps with {rate_in_words(drawn.rate)}; the loss in the end is {drawn.result}."
    )
    lines = [
        "---",
        "hide-toc: true",
        "---",
        "",
        f"# {entry.name}",
        "",
        *(f":{key}: {value}" for key, value in facts.items()),
        "",
        "```{eval-rst}",
        f".. autoclass:: schuss.{entry.name}",
        *(f"\n   .. automethod:: {name}" for name in own_methods(cls)),
        "```",
        "",
        "## Defaults",
        *defaults(cls),
        "The options that every optimizer has are in {py:class}`schuss.Optimizer`.",
        "",
        "## Both pages",
        "",
        "What a step computes, in NumPy and in the C++ that is compiled:",
        f"`{page.relative_to(ROOT)}` and `{rule.relative_to(ROOT)}`.",
        "",
        "::::{container} facing",
        ":::{container} side",
        "```python",
        python_side(page),
        "```",
        ":::",
        ":::{container} side",
        "```cpp",
        cpp_side(rule),
        "```",
        ":::",
        "::::",
        "",
        "## On the way",
        "",
        "::::{container} pictures",
        f"![The way of {entry.name} over the contours]({way})",
        f"![The loss of {entry.name} over the steps]({loss})",
        "::::",
        "",
        words,
        "The white dot is the start, the star the minimum. The rate was searched for as",
        f"[`examples/race.py`]({links.target(ROOT / 'examples/race.py')}) does; weight decay is off; the two parameters are a",
        "matrix of one row.",
        "",
        *speed(entry.name),
        *compared(cls.rule),
    ]
    return "\n".join(lines)


def write_catalogue() -> None:
    """Write a page for each optimizer, and draw what is not drawn yet."""
    optimizers = schuss.optimizers()
    every = [list(sources(cls)) for cls in optimizers.values()]
    PICTURES.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        drawn = list(pool.map(trajectory, optimizers, every, [PICTURES] * len(every), chunksize=4))
    for cls, each in zip(optimizers.values(), drawn, strict=True):
        write(CATALOGUE / f"{cls.rule}{SUFFIX}", optimizer_page(cls, each))
    for stale in set(CATALOGUE.glob(f"*{SUFFIX}")) - {CATALOGUE / f"{cls.rule}{SUFFIX}" for cls in optimizers.values()}:
        stale.unlink()


# ------------------------------------------------------------------------------------------------ reference


def about(module: ModuleType) -> str:
    """Return what a module is about: the first sentence of its docstring."""
    return " ".join(inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].split())


def interface() -> dict[str, list[tuple[str, Any]]]:
    """Return the public names by the module whose page they are on, each once, under the name that users write."""
    optimizers = {id(cls) for cls in schuss.optimizers().values()}
    pages: dict[str, list[tuple[str, Any]]] = {}
    seen: set[int] = set()

    def note(module: str, name: str, member: Any) -> None:
        if id(member) not in seen | optimizers:
            seen.add(id(member))
            pages.setdefault(module, []).append((name, member))

    modules = [name for name in dir(schuss) if inspect.ismodule(getattr(schuss, name))] + ["trees"]
    for name in dir(schuss):
        member = getattr(schuss, name)
        if not inspect.ismodule(member):
            home = member.__module__.split(".")
            within = home[1] if len(home) > 1 else "schuss"
            note("schuss" if within in ("schuss", "_runtime") else f"schuss.{within}", f"schuss.{name}", member)
    for name in modules:
        module = importlib.import_module(f"schuss.{name}")
        names = getattr(module, "__all__", None) or [
            each
            for each, member in vars(module).items()
            if inspect.isroutine(member) and member.__module__ == module.__name__
        ]
        for each in names:
            if not each.startswith("_"):
                note(f"schuss.{name}", f"schuss.{name}.{each}", getattr(module, each))
    return pages


def directive(name: str, member: Any) -> list[str]:
    """Return the lines that document one name."""
    if inspect.isclass(member):
        return [f".. autoclass:: {name}", "   :members:", ""]
    return [f".. {'autofunction' if inspect.isroutine(member) else 'autodata'}:: {name}", ""]


def write_reference() -> None:
    """Write a page for each module with public names, and their index."""
    pages = interface()
    index = [
        "# Reference",
        "",
        "Every public name of the package. The optimizers are on the pages of the [catalogue](../catalogue.md).",
        "",
    ]
    rows = []
    for page, members in sorted(pages.items()):
        module = importlib.import_module(page)
        lines = [f"# {page}", "", "```{eval-rst}", inspect.cleandoc(module.__doc__ or ""), ""]
        for name, member in members:
            lines += directive(name, member)
        write(API / f"{page}{SUFFIX}", "\n".join([*lines, "```", ""]))
        names = ", ".join("{py:obj}`" + f"~{name}`" for name, _ in members)
        rows.append([f"[`{page}`]({page}{SUFFIX})", about(module), names])
    index += table(["module", "what it is", "names"], rows)
    index += ["```{toctree}", ":hidden:", "", *sorted(pages), "```", ""]
    write(API / f"index{SUFFIX}", "\n".join(index))
    for stale in set(API.glob(f"*{SUFFIX}")) - {API / f"index{SUFFIX}", *(API / f"{page}{SUFFIX}" for page in pages)}:
        stale.unlink()


@cache
def public() -> dict[str, str]:
    """Return the full names of what is documented by all the names under which text may mention it."""
    found = {}
    named = [(f"schuss.{name}", cls) for name, cls in schuss.optimizers().items()]
    named += [pair for members in interface().values() for pair in members]
    optimizers = schuss.optimizers().values()
    for full, member in named:
        short = full.removeprefix("schuss.")
        found[full] = found[short] = full
        # The methods of optimizers are those of their base class, or on their pages.
        for each, inner in vars(member).items() if inspect.isclass(member) and member not in optimizers else ():
            if not each.startswith("_") and (callable(inner) or isinstance(inner, property)) and inspect.getdoc(inner):
                found[f"{full}.{each}"] = found[f"{short}.{each}"] = f"{full}.{each}"
    return found


class Names(SphinxTransform):
    """Makes code of what stands in single backticks in docstrings, and links of the public names among all code."""

    default_priority = 300

    def apply(self, **kwargs: Any) -> None:
        """Go over a document as it was read."""
        for node in list(self.document.findall(nodes.title_reference)):
            node.replace_self(nodes.literal(node.rawsource, node.astext()))
        for node in list(self.document.findall(nodes.literal)):
            full = public().get(node.astext().removesuffix("()"))
            parent = node.parent
            if full is None or isinstance(parent, nodes.reference | addnodes.pending_xref | nodes.title):
                continue
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=full, refexplicit=True, refwarn=True
            )
            link["refdoc"] = self.env.docname
            node.replace_self(link)
            link += node


# ------------------------------------------------------------------------------------------------ Sphinx


def make_pages(app: Sphinx) -> None:
    """Write all pages that are made, before Sphinx looks what there is."""
    sys.path.insert(0, str(ROOT / "tests"))
    write_catalogue()
    write_reference()
    for page in [*DOCS.glob("*.md"), *DOCS.glob("decisions/*.md")]:
        links.rewrite(page.read_text(encoding="utf-8"), page.parent, page)
    links.write_pages()


#: Pages that are lists of other pages, and which: the entries of the navigation below them.
BELOW = {"catalogue": "catalogue/*", "decisions/README": "decisions/0*"}


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Let links to files lead to pages, and put pages into the navigation below the page that lists them."""
    page = DOCS / f"{docname}.md"
    if docname.partition("/")[0] not in ("catalogue", "api", "source") or docname == "catalogue":
        content[0] = links.rewrite(content[0], page.parent, page)
    if docname in BELOW:
        content[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n/{BELOW[docname]}\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect all to Sphinx."""
    app.connect("builder-inited", make_pages)
    app.connect("source-read", read_source)
    app.add_transform(Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
