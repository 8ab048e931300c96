"""Nestings of lists, tuples and dicts with arrays as leaves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: One array, or any nesting of lists, tuples and dicts of arrays.
Tree: TypeAlias = "NDArray[Any] | Sequence[Tree] | Mapping[Any, Tree]"

#: The nesting alone, as the compiled plan reads it: None for a leaf, a list or a dict of structures.
Structure: TypeAlias = "list[Structure] | dict[Any, Structure] | None"


_DEEPEST = 100


def check_depth(who: str, tree: Any) -> None:
    """Refuse a nesting that the functions below, which call themselves, could not follow to its end."""
    stack = [iter((tree,))]
    while stack:
        for child in stack[-1]:
            if isinstance(child, dict | list | tuple):
                stack.append(iter(child.values() if isinstance(child, dict) else child))
                break
        else:
            stack.pop()
        if len(stack) > _DEEPEST + 1:
            raise ValueError(
                f"{who} is nested more than {_DEEPEST} levels deep, or contains itself; pass a flatter nesting"
            )


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path of every leaf, as one would index it, and the leaf."""
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from leaves(child, f"{path}[{key!r}]")
    elif isinstance(tree, list | tuple):
        for index, child in enumerate(tree):
            yield from leaves(child, f"{path}[{index}]")
    else:
        yield path, tree


def names(tree: Any, above: str = "") -> list[str]:
    """Return the leaves' names, such as "layers.0.bias": what leads to them, joined by dots; nothing leads to an array."""
    if not isinstance(tree, dict | list | tuple):
        return [above]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [name for key, child in items for name in names(child, f"{above}.{key}" if above else str(key))]


def by_name(which: str, patterns: Collection[str], names: Sequence[str]) -> list[str | None]:
    """Return the first pattern (as for files) that each name fits, if any; refuse a pattern that fits none."""
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{which} must have patterns of names such as '*.bias', got {patterns!r}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            known = f"their names are {shown}" if any(names) else "a bare array has no name, put it into a dict"
            raise ValueError(f"{which}: {pattern!r} fits no parameter; {known}")
    return [next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None) for name in names]


def structure(tree: Any) -> Structure:
    """Return the nesting of a tree without its leaves."""
    if isinstance(tree, dict):
        return {key: structure(child) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [structure(child) for child in tree]
    return None


def rebuild(tree: Any, new_leaves: Iterator[Any]) -> Any:
    """Return a tree of the same nesting (named tuples keep their class) with other leaves."""
    if isinstance(tree, dict):
        return {key: rebuild(child, new_leaves) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        children = [rebuild(child, new_leaves) for child in tree]
        if isinstance(tree, list):
            return children
        return type(tree)(*children) if hasattr(tree, "_fields") else tuple(children)
    return next(new_leaves)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree of `function(leaf)`."""
    return rebuild(tree, iter([function(leaf) for _, leaf in leaves(tree)]))


def matching_leaves(tree: Any, like: Any) -> Iterator[NDArray[np.generic] | None]:
    """Yield the leaves of `tree` in the order of `like`, which has the same nesting; a None stands for all below it."""
    if tree is None:
        yield from (None for _ in leaves(like))
    elif isinstance(like, dict):
        for key, child in like.items():
            yield from matching_leaves(tree[key], child)
    elif isinstance(like, list | tuple):
        for part, child in zip(tree, like, strict=True):
            yield from matching_leaves(part, child)
    else:
        yield tree
