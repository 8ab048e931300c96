"""Pure Python out of an optimizer's NumPy reference: the same statements as loops over lists of floats.

No formula is written here; the source of the class's `reference` is read and rewritten:

- Consecutive statements over arrays become one `for` loop that reads each element once, computes with `math` and the
  built-in functions, and writes back what the statements write: the loop a careful author would write by hand.
- A sum over arrays becomes an accumulation in that loop.
- Tests of scalars (options, the step) are taken out of the loops.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class NotPlainError(ValueError):
    """The reference is not made of element-wise operations and sums alone."""


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _where(condition: bool, a: float, b: float) -> float:
    return a if condition else b


def _clip(x: float, lower: float, upper: float) -> float:
    return min(max(x, lower), upper)


def _square(x: float) -> float:
    return x * x


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "cbrt", "exp", "expm1", "log", "log1p", "tanh", "copysign")},
    "absolute": abs,
    "maximum": max,
    "minimum": min,
    "power": pow,
    "sign": _sign,
    "where": _where,
    "clip": _clip,
    "square": _square,
}
"""What stands for a function of arrays, by the function's own name."""

SUMS = {"dot": "({}) * ({})", "total": "{}", "row_dot": "({}) * ({})", "row_total": "{}"}
"""What is added up for a function that makes one number of arrays, by its own name; rows come one by one."""

EXTENTS = {"size": "len({})", "shape": "(1, len({}))"}
"""Attributes of an array, of a list: where a shape matters, the list is a row."""

ARRANGEMENTS = {"astype", "reshape"}
"""Methods that leave the single element as it is."""


COMPUTES = (ast.BinOp, ast.UnaryOp, ast.Call, ast.IfExp, ast.BoolOp, ast.Compare, ast.Subscript)
"""Expressions that are taken out of a loop where they do not depend on its elements."""


@dataclass
class Scope:
    """What is known at one point of the function.

    Attributes
    ----------
    lists
        Names of arrays that are lists, elements of which a loop has under the plain name.
    values
        Names of arrays that exist in the loop alone.
    body, sums, after
        The loop under construction, its accumulators, and the statements that wait for them.
    """

    lists: set[str]
    values: set[str] = field(default_factory=set)
    body: list[ast.stmt] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    after: list[ast.stmt] = field(default_factory=list)

    def is_array(self, node: ast.AST) -> bool:
        return bool(_loaded(node) & (self.lists | self.values))


def derive(reference: Callable[..., Any], known: Mapping[str, bool | None], singles: set[str]) -> Callable[..., Any]:
    """Return the pure Python function of a reference.

    Parameters
    ----------
    reference
        A function that updates arrays, its positional parameters; the others are scalars.
    known
        Parameters whose value will always be this one: None for a slot that is not there, flags.
    singles
        Positional parameters that hold a single value: they become lists of length one.

    Returns
    -------
    callable
        Takes lists in place of arrays; a generator function where the reference is one. Its source is its docstring.
    """
    namespace = dict(reference.__globals__)
    function = _Rewriter(namespace, known, singles).rewritten(_definition(reference))
    module = ast.fix_missing_locations(ast.Module([function], []))
    exec(compile(module, f"<plain {reference.__qualname__}>", "exec"), namespace)
    plain: Callable[..., Any] = namespace[function.name]
    plain.__doc__ = ast.unparse(module)
    return plain


class _Rewriter:
    """Rewrites one function; `namespace` receives the functions that the result calls."""

    def __init__(self, namespace: dict[str, Any], known: Mapping[str, bool | None], singles: set[str]) -> None:
        self.namespace, self.known, self.singles = namespace, known, singles
        self.counter = itertools.count()

    def rewritten(self, function: ast.FunctionDef) -> ast.FunctionDef:
        arrays = {each.arg for each in function.args.args} - set(self.known) - self.singles
        self.first = function.args.args[0].arg
        body = [_Specialize(self.known, self.singles, arrays).visit(stmt) for stmt in function.body]
        for each in function.args.args:
            each.arg = each.arg if each.arg in self.known else _list(each.arg)
        for each in [*function.args.args, *function.args.kwonlyargs]:
            each.annotation = None
        function.decorator_list, function.returns = [], None
        function.body = [_OfScalars(self).visit(stmt) for stmt in self.block(body, Scope(arrays))] or [ast.Pass()]
        return function

    def block(self, statements: Sequence[ast.stmt], scope: Scope) -> list[ast.stmt]:
        """Return the rewritten statements, which are the rest of the function."""
        out: list[ast.stmt] = []
        for at, stmt in enumerate(statements):
            rest = statements[at + 1 :]
            if _loaded(stmt) & _assigned(scope.after):
                out += self.flushed(scope, statements[at:])
            if isinstance(stmt, ast.Return):
                return out + self.flushed(scope, []) + [stmt]
            if isinstance(stmt, ast.If) and self.is_scalar(stmt, scope):
                out.append(stmt)
                continue
            if isinstance(stmt, ast.If):
                branches = stmt.test, stmt.body, stmt.orelse
            elif choice := self.scalar_choice(stmt, scope):
                branches = choice.test, [_put(stmt, choice, choice.body)], [_put(stmt, choice, choice.orelse)]
            elif split := _split_tuple(stmt):
                return out + self.block([*split, *rest], scope)
            else:
                out += self.simple(stmt, rest, scope)
                continue
            # A test of scalars: the rest of the function is written once for either outcome, so that no loop tests it.
            test, then, otherwise = branches
            if scope.is_array(test):
                raise NotPlainError(f"it tests arrays: {ast.unparse(test)}")
            if isinstance(test, ast.Constant):
                return out + self.block([*(then if test.value else otherwise), *rest], scope)
            return [
                *out,
                ast.If(
                    copy.deepcopy(test),
                    self.block([*then, *rest], copy.deepcopy(scope)) or [ast.Pass()],
                    self.block([*otherwise, *rest], copy.deepcopy(scope)),
                ),
            ]
        return out + self.flushed(scope, [])

    def simple(self, stmt: ast.stmt, rest: Sequence[ast.stmt], scope: Scope) -> list[ast.stmt]:
        """Put a statement into the loop or behind it; return what comes before the loop."""
        if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Constant):
            return []
        if not isinstance(stmt, (ast.Assign, ast.AugAssign, ast.Expr)):
            raise NotPlainError(f"it has a statement of another kind: {ast.unparse(stmt)}")
        sums = _Sums(self, scope)
        stmt = sums.visit(copy.deepcopy(stmt))  # it may stand in another branch as well
        scope.body += sums.body
        before = sums.before
        if scope.is_array(stmt) or _assigned([stmt]) & scope.lists:
            if sums.body:
                before += self.flushed(scope, [stmt, *rest])
            element = _Element(self, scope, before).visit(stmt)
            scope.values |= _assigned([element]) - scope.lists
            scope.body.append(element)
        elif sums.body:
            scope.after.append(stmt)
        else:
            before.append(stmt)
        return before

    def is_scalar(self, stmt: ast.If, scope: Scope) -> bool:
        """Return whether a test and what depends on it can stay as they are."""
        returns = any(isinstance(node, ast.Return) for node in ast.walk(stmt))
        return not (scope.is_array(stmt) or returns or isinstance(stmt.test, ast.Constant))

    def scalar_choice(self, stmt: ast.stmt, scope: Scope) -> ast.IfExp | None:
        """Return a conditional expression over scalars with arrays to choose from."""
        for node in ast.walk(stmt):
            if isinstance(node, ast.IfExp) and scope.is_array(node) and not scope.is_array(node.test):
                return node
        return None

    def flushed(self, scope: Scope, rest: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Return the loop under construction and what waits for it; `rest` tells what must outlive the loop."""
        body, after = scope.body, scope.after
        kept = sorted(_assigned(body) & scope.values & set().union(*map(_loaded, rest)))
        lists = sorted((set().union(*map(_loaded, body)) | _assigned(body)) & scope.lists)
        stored = [name for name in lists if name in _assigned(body)] + kept
        out = [_statement(f"{name} = 0.0") for name in scope.sums]
        out += [_statement(f"{_list(name)} = [0.0] * len({_list(self.first)})") for name in kept]
        if body:
            names, sources = ", ".join(lists), ", ".join(map(_list, lists))
            head = f"for {names} in {sources}: pass" if len(lists) == 1 else f"for {names} in zip({sources}): pass"
            if stored:
                head = f"for _i, ({names},) in enumerate(zip({sources})): pass"
            loop = _statement(head)
            assert isinstance(loop, ast.For)
            loop.body = [*body, *(_statement(f"{_list(name)}[_i] = {name}") for name in stored)]
            out.append(loop)
        scope.lists |= set(kept)
        scope.values -= set(kept)
        scope.body, scope.sums, scope.after = [], [], []
        return out + after

    def fresh(self, what: str) -> str:
        """Return a name that the function does not use."""
        return f"_{what}{next(self.counter)}"

    def elementwise(self, name: str, node: ast.Call) -> ast.expr:
        """Return the call of the function that stands for an array function."""
        self.namespace[f"_{name}"] = ELEMENTWISE[name]
        return ast.Call(ast.Name(f"_{name}", ast.Load()), node.args, node.keywords)

    def called(self, function: ast.expr) -> str:
        """Return the own name of the function that an expression means."""
        try:
            meant = eval(ast.unparse(function), self.namespace)
        except (NameError, AttributeError):  # a method of an array
            return ""
        return str(getattr(meant, "__name__", ""))


class _Specialize(ast.NodeTransformer):
    """Puts in what is known of the parameters: their values, or that they are single values."""

    def __init__(self, known: Mapping[str, bool | None], singles: set[str], arrays: set[str]) -> None:
        self.known, self.singles, self.arrays = known, singles, arrays

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.known:
            return ast.Constant(self.known[node.id])
        if node.id in self.singles:
            return ast.Subscript(ast.Name(_list(node.id), ast.Load()), ast.Constant(0), node.ctx)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in self.singles:  # d[...], d[()]
            return ast.Subscript(ast.Name(_list(node.value.id), ast.Load()), ast.Constant(0), node.ctx)
        self.generic_visit(node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if node.attr in EXTENTS and isinstance(node.value, ast.Name):
            return ast.parse(EXTENTS[node.attr].format(_list(node.value.id)), mode="eval").body
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Attribute) and node.func.attr in ARRANGEMENTS:
            value: ast.expr = self.visit(node.func.value)
            return value
        self.generic_visit(node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        match node:
            case ast.Compare(ast.Name(name), [ast.Is() | ast.IsNot() as operator], [ast.Constant(None)]):
                absent = self.known.get(name, ...) is None
                return ast.Constant(absent == isinstance(operator, ast.Is))
        self.generic_visit(node)
        return node


class _OfScalars(ast.NodeTransformer):
    """Takes NumPy's functions of single numbers from `math`: their results would be NumPy's slow scalars."""

    def __init__(self, rewriter: _Rewriter) -> None:
        self.rewriter = rewriter

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = self.rewriter.called(node.func)
        return self.rewriter.elementwise(name, node) if name in ELEMENTWISE else node


class _Sums(ast.NodeTransformer):
    """Replaces each sum over arrays by an accumulator.

    `body` is what the loop does for the sums, and `before` what is computed once before it.
    """

    def __init__(self, rewriter: _Rewriter, scope: Scope) -> None:
        self.rewriter, self.scope = rewriter, scope
        self.body: list[ast.stmt] = []
        self.before: list[ast.stmt] = []

    def visit_Call(self, node: ast.Call) -> ast.expr:
        term = SUMS.get(self.rewriter.called(node.func))
        if term is None or not self.scope.is_array(node):
            self.generic_visit(node)
            return node
        name = self.rewriter.fresh("sum")
        statement = _statement(f"{name} += {term.format(*map(ast.unparse, node.args))}")
        self.body.append(_Element(self.rewriter, self.scope, self.before).visit(statement))
        self.scope.sums.append(name)
        return ast.Name(name, ast.Load())


class _Element(ast.NodeTransformer):
    """Turns a statement over arrays into one over their elements; what it computes of scalars goes to `before`."""

    def __init__(self, rewriter: _Rewriter, scope: Scope, before: list[ast.stmt]) -> None:
        self.rewriter, self.scope, self.before = rewriter, scope, before

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, COMPUTES) and not self.scope.is_array(node):
            name = self.rewriter.fresh("scalar")
            self.before.append(ast.Assign([ast.Name(name, ast.Store())], node))
            return ast.Name(name, ast.Load())
        return super().visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Constant) and node.slice.value is ...:
            return ast.Name(node.value.id, node.ctx)
        self.generic_visit(node)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Invert):
            return ast.UnaryOp(ast.Not(), node.operand)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = self.rewriter.called(node.func)
        if name not in ELEMENTWISE:
            raise NotPlainError(f"it calls {ast.unparse(node.func)}")
        node.args = [self.visit(each) for each in node.args]
        return self.rewriter.elementwise(name, node)


def _definition(reference: Callable[..., Any]) -> ast.FunctionDef:
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(reference))).body
    assert isinstance(function, ast.FunctionDef)
    return function


def _list(name: str) -> str:
    return f"{name}_list"


def _statement(source: str) -> ast.stmt:
    return ast.parse(source).body[0]


def _loaded(node: ast.AST) -> set[str]:
    """Return the names that are read; `x += ...` reads x."""
    read = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    grown = {_target(each.target) for each in ast.walk(node) if isinstance(each, ast.AugAssign)}
    return read | grown


def _assigned(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that simple statements assign to."""
    names = set()
    for stmt in statements:
        match stmt:
            case ast.Assign([ast.Tuple(targets)]) | ast.Assign(targets) | ast.AugAssign(targets):
                names |= {_target(target) for target in (targets if isinstance(targets, list) else [targets])}
    return names


def _target(node: ast.expr) -> str:
    """Return the name under an assignment's target: x, x[...]."""
    if isinstance(node, ast.Subscript):
        node = node.value
    if not isinstance(node, ast.Name):
        raise NotPlainError(f"it assigns to {ast.unparse(node)}")
    return node.id


def _split_tuple(stmt: ast.stmt) -> list[ast.stmt]:
    """Return `a = x; b = y` for `a, b = x, y`, where the order does not matter; else nothing."""
    match stmt:
        case ast.Assign([ast.Tuple(targets)], ast.Tuple(values) as value):
            if _assigned([stmt]) & _loaded(value):
                raise NotPlainError(f"it swaps: {ast.unparse(stmt)}")
            return [ast.Assign([target], each) for target, each in zip(targets, values, strict=True)]
    return []


def _put(stmt: ast.stmt, old: ast.expr, new: ast.expr) -> ast.stmt:
    """Return the statement with one expression replaced."""

    class Put(ast.NodeTransformer):
        def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
            if ast.dump(node) == ast.dump(old):
                return new
            self.generic_visit(node)
            return node

    replaced: ast.stmt = Put().visit(copy.deepcopy(stmt))
    return replaced


def written(reference: Callable[..., Any]) -> set[str]:
    """Return the parameters that a reference writes to: `m[...] = ...`."""
    names = set()
    for node in ast.walk(_definition(reference)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            names.add(node.value.id)
    return names
