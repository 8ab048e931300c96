"""The laws of the house, as tests of the code base: two pages per optimizer that agree, documented, in the vocabulary alone."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
from numpy.typing import NDArray
from support import CLASSES, PASS_VARIANTS, PASSES, VARIANTS, Variant, inputs_for, is_own_class

import schuss
from schuss.optimizer import Optimizer
from schuss.reference import Reference, compare

ROOT = Path(__file__).resolve().parents[1]
CPP = ROOT / "cpp"
PACKAGE = Path(schuss.__file__).parent
RULES = sorted(CPP.glob("rules/*/*.hpp"))
COMMON = set(Optimizer.__annotations__) & set(CLASSES[0].hyperparameters)  # l2, l1

beside_sources = pytest.mark.skipif(not CPP.is_dir(), reason="the sources are not beside the tests")
every_class = pytest.mark.parametrize("cls", [*CLASSES, *PASSES], ids=lambda cls: cls.__name__)
every_rule = pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)


def own(cls: type[Optimizer]) -> list[str]:
    """Return a class's own hyper-parameters, in the order of their annotations."""
    return [name for name in cls.hyperparameters if name not in COMMON]


def page(cls: type[Optimizer]) -> Path:
    return next(path for path in RULES if path.stem == cls.rule)


# ---- the file name is the registration ------------------------------------------------------------------------------------


@beside_sources
def test_every_rule_has_two_pages() -> None:
    folders = PACKAGE / "optimizers", PACKAGE / "passes"
    pages = [path.stem for folder in folders for path in folder.glob("*.py") if path.stem != "__init__"]
    assert sorted(path.stem for path in RULES) == sorted(pages)


@every_class
def test_one_name(cls: type[Optimizer]) -> None:
    """File, struct, rule and module have one name; the class has it without underscores, in capitals of its own."""
    module = sys.modules[cls.__module__]
    assert cls.__module__ == f"schuss.{'passes' if cls in PASSES else 'optimizers'}.{cls.rule}"
    assert cls.__name__.lower() == cls.rule.replace("_", "")
    defined = [each for each in vars(module).values() if is_own_class(each, cls.__module__)]
    assert defined == [cls]


@beside_sources
@every_class
def test_the_folder_is_the_kind(cls: type[Optimizer]) -> None:
    assert page(cls).parent.name == cls.kind


def test_the_registry_can_be_called_again() -> None:
    """Importing the folder `optimizers` must not put the module in place of the function."""
    assert schuss.optimizers() == schuss.optimizers() == {cls.__name__: cls for cls in CLASSES}
    assert all(getattr(schuss, cls.__name__) is cls for cls in CLASSES)


# ---- the two pages agree --------------------------------------------------------------------------------------------------


@every_class
def test_annotations_are_the_rule_s_names(cls: type[Optimizer]) -> None:
    """In order; what neither the rule nor its flags name must be what the state starts from."""
    compiled = cls._compiled()
    for kernel in compiled["kernels"].values():
        assert [name for name in own(cls) if name in kernel["hyper"]] == kernel["hyper"]
    flags = [name for name in own(cls) if name in compiled["flags"]]
    assert set(flags) == set(compiled["flags"])
    # What a state starts from, and what the work between sweeps takes.
    further = inspect.getsource(cls if cls.kind == "matrix" else cls.initial)
    further += "".join(
        inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("schuss.optimizers")
    )
    for name in own(cls):
        named = name in flags or any(name in kernel["hyper"] for kernel in compiled["kernels"].values())
        assert named or f'values["{name}"]' in further, f"{name} acts on nothing"


@every_class
def test_the_reference_takes_what_the_rule_takes(cls: type[Optimizer]) -> None:
    """Positional: p, g, inputs, state, scalars; keyword: t, hyper-parameters, flags."""
    parameters = inspect.signature(cls.reference).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert len(positional) + len(keyword) == len(parameters)
    for flags, kernel in cls._compiled()["kernels"].items():
        names = ["p", "g", *kernel["inputs"], *kernel["draws"], *kernel["state"], *kernel["scalars"]]
        assert len(positional) == len(names)
        for ours, theirs in zip(positional, names, strict=True):
            assert theirs in (ours, None), f"under flags {flags}"  # None: a slot that the flags leave out
        further = [flag for flag in cls._compiled()["flags"] if flag not in kernel["hyper"]]
        further += ["matrix"] if cls._compiled()["shaped"] else []
        assert keyword == ["t", *kernel["hyper"], *kernel["given"], *further]


@every_class
def test_the_reference_is_a_generator_where_it_stops(cls: type[Optimizer]) -> None:
    """For sums over all tensors, and for work on whole matrices."""
    assert inspect.isgeneratorfunction(cls.reference) == (cls.kind in ("global", "matrix"))


@every_class
def test_the_reference_writes_in_place(cls: type[Optimizer]) -> None:
    """An assignment to an argument's own name would step nothing."""
    arguments = {
        p.name for p in inspect.signature(cls.reference).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    for node in ast.walk(syntax_of(cls.reference)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id not in arguments, f"line {node.lineno}: {node.id} is rebound"


@every_class
def test_the_reference_speaks_the_vocabulary(cls: type[Optimizer]) -> None:
    """Every word rounds correctly, or is ours: no powers, which the C library rounds as it likes."""
    allowed = {
        "np": {"sqrt", "abs", "sign", "maximum", "minimum", "clip", "where"},
        "math": {"sqrt", "inf", "prod"},
    }
    for node in ast.walk(syntax_of(cls.reference)):
        if isinstance(node, ast.BinOp):
            assert not isinstance(node.op, ast.Pow), f"line {node.lineno}: write g * g, math.sqrt(x) or one_minus_power"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in allowed:
            assert node.attr in allowed[node.value.id], f"line {node.lineno}: {node.value.id}.{node.attr}"


def syntax_of(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


@beside_sources
@every_class
def test_the_rule_takes_what_it_names(cls: type[Optimizer]) -> None:
    """`at` takes the step count, then `hyper`, then `scalars` by reference, in the order of their names."""
    text = code_of(page(cls))
    arguments = re.search(r"static auto at\((.*?)\)\s*\{", text, re.DOTALL)
    assert arguments
    got = [" ".join(each.split()) for each in arguments.group(1).split(",")]
    for kernel in cls._compiled()["kernels"].values():
        assert got[0] in ("double t", "double")
        named = [f"double {name}" for name in (*kernel["hyper"], *kernel["given"])]
        named += [f"double& {name}" for name in kernel["scalars"]]
        assert got[1:] == named


@every_class
def test_defaults_are_in_range(cls: type[Optimizer]) -> None:
    for name, each in cls.hyperparameters.items():
        assert each.check(cls.__name__, each.default) == each.default, name
        assert each.doc or name in COMMON, f"{name} needs a #: comment"


def ends_of(variant: Variant) -> Iterator[tuple[str, float]]:
    """Yield every hyper-parameter with the least and the greatest value that it may have."""
    for name, each in variant.cls.hyperparameters.items():
        domain = each.domain
        if domain.switch:
            continue
        largest = np.finfo(np.float64).max if domain.upper == np.inf and domain.upper_open else domain.upper
        yield name, float(np.nextafter(domain.lower, np.inf) if domain.lower_open else domain.lower)
        yield name, float(np.nextafter(largest, 0.0) if domain.upper_open else largest)


@pytest.mark.parametrize("variant", [*VARIANTS, *PASS_VARIANTS], ids=str)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_the_ends_of_every_range(variant: Variant, rng: np.random.Generator) -> None:
    """Kernel and reference agree there too, whatever comes of it, and nothing stops the step."""
    gradients = {"ordinary": 1.0, "zero": 0.0, "nan": np.nan, "inf": np.inf}
    for name, value in ends_of(variant):
        for kind, factor in gradients.items():
            try:
                opt = variant.make([rng.standard_normal((4, 5)), np.zeros(7, np.float32)], **{name: value})
            except ValueError:
                break  # refused beside the variant's flags
            twin = Reference(opt)
            for _ in range(3):
                grads: list[NDArray[Any]] = [rng.standard_normal((4, 5)), rng.standard_normal(7).astype(np.float32)]
                for grad in grads:
                    grad[::3] *= factor
                further = inputs_for(opt, grads, rng)
                opt.step(grads, **further)
                twin.step(grads, **further)
                report = compare(opt, twin)
                assert report, f"{name}={value!r}, {kind}: {report}"


# ---- documentation --------------------------------------------------------------------------------------------------------


def sections(cls: type[Optimizer]) -> dict[str, str]:
    """Return the sections of a numpydoc docstring; what comes first is called Summary."""
    assert cls.__doc__
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(cls.__doc__), flags=re.MULTILINE)
    return dict(zip(["Summary", *parts[1::2]], [parts[0], *parts[2::2]], strict=True))


@every_class
def test_the_docstring_is_complete(cls: type[Optimizer]) -> None:
    found = sections(cls)
    assert list(found) == ["Summary", "Parameters", "Notes", "Examples"]
    summary = found["Summary"]
    assert summary.splitlines()[0].endswith(".")
    assert ".. math::" in summary, "the formula"
    assert re.search(r"https://|\(\d{4}\)", summary), "the source"
    assert ">>> " in found["Examples"]


@every_class
def test_parameters_are_documented(cls: type[Optimizer]) -> None:
    """Each by name, with the range that is checked."""
    text = sections(cls)["Parameters"]
    described: dict[str, str] = {}
    for names, description in re.findall(r"^(\w[\w, ]*) : .*\n((?:    .*\n?)+)", text, re.MULTILINE):
        described |= dict.fromkeys(names.split(", "), " ".join(description.split()))
    assert list(described) == ["params", *own(cls), *cls.options]
    for name in own(cls):
        domain = cls.hyperparameters[name].domain
        if not domain.switch:
            assert re.search(rf"(in|In) {re.escape(str(domain))}", described[name]), (
                f"{name}: say that it is in {domain}"
            )


@every_class
def test_the_state_is_documented(cls: type[Optimizer]) -> None:
    notes = sections(cls)["Notes"]
    assert notes.startswith("State: ")
    for kernel in cls._compiled()["kernels"].values():
        for slot in [*filter(None, kernel["state"]), *kernel["scalars"], *cls.shaped]:
            assert f"`{slot}`" in notes or cls.kind == "global", f"{slot} is not in the notes"


@every_class
def test_inexactness_has_a_reason(cls: type[Optimizer]) -> None:
    assert cls.exact or "exact" in sections(cls)["Notes"]


# ---- nothing but its two pages knows an optimizer -------------------------------------------------------------------------


def code_of(path: Path) -> str:
    """Return a file without comments, and a Python file without docstrings."""
    text = path.read_text()
    if path.suffix == ".py":
        return python_code(text)
    if path.suffix in (".cmake", ".txt"):
        return re.sub(r"#.*", "", text)
    return re.sub(r"/\*.*?\*/", "", re.sub(r"//.*", "", text), flags=re.DOTALL)


def python_code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # Strings that stand alone are documentation; hints for users of other libraries name what to use here.
            node.body = [each for each in body if not is_documentation(each) and not is_hints(each)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(ast.fix_missing_locations(tree))


def is_documentation(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_hints(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("_FOREIGN", "_RENAMED")


def shared_files() -> list[Path]:
    """Return every file that serves all optimizers."""
    patterns = ["cpp/core/*", "cpp/kernels/*", "cpp/binding/*", "cpp/cmake/*", "cpp/rules/*.hpp", "tools/*.py"]
    patterns += ["CMakeLists.txt", "CMakePresets.json", "pyproject.toml"]
    return [*sorted(PACKAGE.glob("*.py")), *(path for pattern in patterns for path in sorted(ROOT.glob(pattern)))]


@beside_sources
@pytest.mark.parametrize("path", shared_files(), ids=lambda path: path.name)
def test_no_optimizer_is_named(path: Path) -> None:
    """Outside of comments, examples and hints to users of other libraries: no list, no switch, no special case."""
    names = {name for cls in CLASSES for name in (cls.__name__, cls.__name__.lower(), cls.rule)}
    found = re.findall(rf"\b({'|'.join(sorted(names))})\b", code_of(path))
    if path.name == "pyproject.toml":
        found = [name for name in found if name != "adam"]  # a keyword of the package index
    assert found == []


# ---- C++ ------------------------------------------------------------------------------------------------------------------

PER_ISA = [*sorted(CPP.glob("rules/*.hpp")), *RULES, *sorted(CPP.glob("kernels/*.hpp"))]
#: The one file that may name instructions, and asks which there are.
NAMES_INSTRUCTIONS = "half.hpp"
ALL_CPP = [path for suffix in ("hpp", "cpp", "in") for path in sorted(CPP.rglob(f"*.{suffix}"))]


@pytest.mark.parametrize("path", ALL_CPP, ids=lambda path: path.name)
def test_cpp_is_quiet_and_plain(path: Path) -> None:
    """It never prints, never ends the process, defines no macro, and starts threads in one place."""
    text = code_of(path)
    loud = r"\b(?:std::)?(cout|cerr|clog|printf|fprintf|puts|fputs|putchar|perror|abort|terminate|_?exit|quick_exit|assert)\b"
    assert re.findall(loud, text) == []
    assert re.findall(r"^\s*#\s*(define|undef).*", text, re.MULTILINE) == []
    if path.name != "parallel.cpp":
        threads = r"#\s*pragma omp (?!simd\b).*|\bomp_\w+|\bstd::j?thread\b|\bpthread_\w+|<(omp|pthread)\.h>"
        assert re.search(threads, text) is None


@pytest.mark.parametrize("path", PER_ISA, ids=lambda path: path.name)
def test_what_is_compiled_per_instruction_set_is_unnamed(path: Path) -> None:
    """All in the unnamed namespace, without statics, intrinsics, or directives but includes and `omp simd`."""
    text = code_of(path).strip()
    directives = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
    assert directives[0] == "#pragma once"
    allowed = r"#include |#pragma omp simd$"
    if path.name == NAMES_INSTRUCTIONS:
        allowed += r"|#if defined\(__F16C__\)$|#endif$"
    else:
        assert re.findall(r"intrin\.h|arm_neon\.h|__builtin_ia32\w*|\b_mm\w*_\w+", text) == []
    assert all(re.match(allowed, line) for line in directives[1:])
    outside, _, rest = text.partition("namespace schuss {\nnamespace {\n")
    assert all(not line.strip() or line.startswith("#") for line in outside.splitlines())
    assert re.search(r"\}\s*\}$", rest)
    inside = re.sub(r"\s+", " ", rest)
    depth = 0
    for character in inside[: inside.rindex("}", 0, -1)]:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, "something stands outside of the unnamed namespace"
    assert re.findall(r"\b(?:thread_local|static(?! constexpr| auto| T| inline| const\b))\b", inside) == []


def balanced(text: str, start: int) -> str:
    """Return what stands between the bracket at `start` and its partner."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    opening, closing, depth = text[start], pairs[text[start]], 0
    for i in range(start, len(text)):
        depth += (text[i] == opening) - (text[i] == closing)
        if depth == 0:
            return text[start + 1 : i]
    raise AssertionError(f"no partner of {opening} at {start}")


def lambdas(text: str) -> Iterator[tuple[str, str]]:
    """Yield arguments and body of every lambda."""
    for match in re.finditer(r"\]\s*\(", text):
        arguments = balanced(text, match.end() - 1)
        after = match.end() + len(arguments) + 1
        opening = re.match(r"\s*\{", text[after:])
        if opening:
            yield arguments, balanced(text, after + opening.end() - 1)


def element_bodies(text: str) -> list[str]:
    """Return the bodies of the loops: lambdas over numbers of type T, with what only describes sums left out."""
    return [body for arguments, body in lambdas(text) if re.search(r"\bT\b", arguments)]


@every_rule
def test_rule_is_one_documented_struct(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^struct (\w+)", text, re.MULTILINE) == [path.stem]
    assert re.search(rf"///.*\n(?:template <.*>\n)?struct {path.stem} ", text), (
        "a comment that says what and from where"
    )
    allowed = {f"rules/{vocabulary.name}" for vocabulary in CPP.glob("rules/*.hpp")}
    if path.parent.name == "matrix":  # what is no matrix is stepped by another rule
        allowed |= {f"rules/{rule.relative_to(CPP / 'rules')}" for rule in CPP.glob("rules/elementwise/*.hpp")}
    assert set(re.findall(r"#include\s*[<\"](.*?)[>\"]", text)) <= allowed
    assert element_bodies(code_of(path)), "a rule returns the body of its loop"


@every_rule
def test_loops_do_not_branch(path: Path) -> None:
    """In a loop's body only construction flags decide, at compile time."""
    text = code_of(path)
    flags = set(re.findall(r"bool (\w+)", " ".join(re.findall(r"template <(.*?)>", text))))
    for body in element_bodies(text):
        assert re.findall(r"\bif\b(?! constexpr)|\b(?:for|while|do|switch|goto)\b|&&|\|\|", body) == []
        conditions = re.findall(r"(\S+)\s*\?", body)
        assert {condition.lstrip("(") for condition in conditions} <= flags, conditions
        assert set(re.findall(r"if constexpr \(!?(\w+)\)", body)) <= flags


@every_rule
def test_rules_speak_the_vocabulary(path: Path) -> None:
    """In the loop: + - * /, words of math.hpp, numbers rounded to T; before it, no function that a C library rounds."""
    text = code_of(path)
    words = set(re.findall(r"^inline \w+ (\w+)\(", (CPP / "rules/math.hpp").read_text(), re.MULTILINE))
    assert {"sqrt", "maximum", "one_minus_power"} <= words
    helpers = set(re.findall(r"const auto (\w+) = (?:\[|\w+::at<T>)", text))
    assert set(re.findall(r"\bstd::(\w+)", text)) <= {"sqrt"}, "in double between the sweeps, too"
    for body in element_bodies(text):
        assert re.findall(r"\b(?:std::\w+|double|float|int|long|unsigned)\b", body) == []
        assert set(re.findall(r"\b(\w+)\s*\(", body)) <= words | helpers | {"T", "constexpr", "values"}
        bare = re.sub(r"Terms\{.*?\}|\bT\(\d+(?:\.\d*)?\)", "", body, flags=re.DOTALL)
        assert re.findall(r"(?<![\w.])\d[\d.e+-]*", bare) == [], "write T(2), or make it a scalar of the capture list"
    assert re.findall(r"\bT\([^()]*\)\s*[-+*/]\s*T\([^()]*\)", text) == [], (
        "round once: T(1 - beta1), not T(1) - T(beta1)"
    )


# ---- the bits themselves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", schuss.instruction_sets())
@pytest.mark.parametrize("variant", golden.VARIANTS, ids=str)
def test_golden_bits(variant: Variant, isa: str) -> None:
    """The bits that were committed, on every architecture and in every build."""
    if str(variant) not in golden.committed():
        pytest.skip("not in golden.json yet: python tests/golden.py")
    schuss.use_isa(isa)
    assert golden.digests(variant) == golden.committed()[str(variant)]


def test_golden_is_about_what_exists() -> None:
    assert set(golden.committed()) <= {str(variant) for variant in golden.VARIANTS}
    assert golden.committed(), "golden.json is missing"
