"""Fuzz the loading of checkpoints, from the bytes of a file to an optimizer.

    python fuzz/checkpoint.py -runs=1000000 [CORPUS]   guided by coverage; needs atheris, and takes libFuzzer's options
    python fuzz/checkpoint.py --plain 20000 [SEED]     by chance alone; needs nothing more

An input is a byte, which chooses the optimizer and the format, and a file. The first inputs are files that each optimizer
has saved. Half of the mutations change bytes; the others change what is in a file and make its lengths, checksums and
digest right again, since hardly any other file comes to the checks behind them.

Of every file that is refused it is asked that this is a CheckpointError, a StateError or an OSError in one short line and
that parameters and state are as they were; of one that is taken, that the optimizer is what the file says, and can step.
Memory is limited.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import schuss
import schuss.checkpoint
import schuss.nested
import schuss.second_order._base
import schuss.second_order.lbfgs
import schuss.state

atheris: Any
try:
    import atheris
except ImportError:
    atheris = None

MEMORY = 1 << 30  # bytes beyond what is taken at the start
SUFFIXES = (".npz", ".safetensors")
RECORD, DIGEST = "schuss.json", "schuss.sha256"


# ---- what is loaded into ---------------------------------------------------------------------------------------------


def params() -> dict[str, Any]:
    return {"w": np.linspace(-1, 1, 6).reshape(2, 3), "b": [np.ones(2, np.float32), np.array(0.5)]}


def plain() -> Any:
    return schuss.Adam(params(), lr=schuss.schedules.Plateau(0.125), clip=schuss.AutoClip(window=5))


def groups() -> Any:
    parts = [schuss.Group({"w": np.ones((2, 2))}, lr=0.5), schuss.Group([np.ones(3, np.float32)])]
    return schuss.NovoGrad(parts, lr=0.25)


def over_all() -> Any:
    return schuss.Prodigy(params())


def matrix() -> Any:
    return schuss.Shampoo(params())


def wrapped() -> Any:
    return schuss.EMA(schuss.Lookahead(schuss.Accumulate(schuss.SGD(params(), lr=0.5, momentum=0.5), steps=2)))


def quasi_newton() -> Any:
    return schuss.LBFGS(params(), history=3)


TARGETS: tuple[Callable[[], Any], ...] = (plain, groups, over_all, matrix, wrapped, quasi_newton)


def leaves(tree: Any) -> list[np.ndarray]:
    return [leaf for _, leaf in schuss.trees.leaves(tree)]


def step(target: Any) -> None:
    """Step down a bowl."""
    if isinstance(target, schuss.ClosureOptimizer):
        target.step(lambda: (sum(float((leaf**2).sum()) for leaf in leaves(target.params)), doubled(target.params)))
    else:
        target.step(doubled(target.params))


def doubled(tree: Any) -> Any:
    return schuss.trees.map_leaves(lambda leaf: leaf * 2, tree)


@dataclass
class Target:
    """An optimizer with what it is when nothing was loaded."""

    name: str
    optimizer: Any
    good: dict[str, Any]
    params: list[np.ndarray]
    lr: Any
    at_first: bytes = b""

    @classmethod
    def make(cls, build: Callable[[], Any]) -> Target:
        optimizer = build()
        for _ in range(3):
            step(optimizer)
        params = [leaf.copy() for leaf in leaves(optimizer.params)]
        target = cls(build.__name__, optimizer, optimizer.state_dict(), params, getattr(optimizer, "lr", None))
        target.at_first = target.memory()
        return target

    def memory(self) -> bytes:
        """Return all that a load may change."""
        return b"".join(self._memory(self.optimizer))

    def _memory(self, level: Any) -> Iterator[bytes]:
        while isinstance(level, schuss.Wrapper):
            yield repr((level._numbers, level._arguments)).encode()
            yield from (array.tobytes() for arrays in level._arrays.values() for array in arrays)
            for each in level._passes.values():
                yield from self._memory(each)
            level = level.optimizer
        yield from (leaf.tobytes() for leaf in leaves(level.params))
        if isinstance(level, schuss.ClosureOptimizer):
            yield repr((level._numbers, level._arguments)).encode()
            yield from (array.tobytes() for array in level._kept().values())
        else:
            yield repr((level._groups, level._skips)).encode()
            yield from (array.tobytes() for slot in level._slots for array in slot if array is not None)
            yield from (level._scalars.tobytes(), level._counts.tobytes())
            yield from (array.tobytes() for each in level._clipper.states for array in each.values())

    def restore(self) -> None:
        if callable(self.lr):  # a number in a file takes a schedule's place, and a state holds none
            self.optimizer.lr = self.lr
        self.optimizer.load_state_dict(self.good)
        for leaf, kept in zip(leaves(self.optimizer.params), self.params, strict=True):
            leaf[...] = kept


# ---- one input -------------------------------------------------------------------------------------------------------


class BrokenPromiseError(Exception):
    """The loader did what it should not do."""


class Fuzzer:
    """The targets, and a directory for the file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.targets = [Target.make(build) for build in TARGETS]
        self.inputs = self.accepted = 0

    def seeds(self) -> list[bytes]:
        """Return the inputs to begin with: a file of every optimizer in every format, with parameters and without."""
        found = []
        for i, target in enumerate(self.targets):
            for j, suffix in enumerate(SUFFIXES):
                for with_params in (False, True):
                    path = self.directory / f"seed{suffix}"
                    target.optimizer.save(path, params=with_params)
                    found.append(bytes([2 * i + j]) + path.read_bytes())
        return found

    def run(self, data: bytes) -> None:
        """Load an input, and raise if a promise is broken."""
        self.inputs += 1
        if not data:
            return
        target = self.targets[data[0] // 2 % len(self.targets)]
        path = self.directory / f"input{SUFFIXES[data[0] % 2]}"
        path.write_bytes(data[1:])
        before = target.memory()
        try:
            target.optimizer.load(path)
        except (schuss.CheckpointError, schuss.StateError, OSError) as error:
            if target.memory() != before:
                raise BrokenPromiseError(f"{target.name}: changed by a load that failed") from error
            if "\n" in str(error) or len(str(error)) > len(str(path)) + 500:
                raise BrokenPromiseError(f"{target.name}: not one sentence: {error!s:.1000}") from error
            return
        self.accepted += 1
        self.compare(target, path)
        with np.errstate(all="ignore"), contextlib.suppress(FloatingPointError):
            step(target.optimizer)
        target.restore()
        if target.memory() != target.at_first:
            raise BrokenPromiseError(f"{target.name}: a good state does not bring back all")

    def compare(self, target: Target, path: Path) -> None:
        """Ask that the optimizer is what the file says: saved again, it is the same content."""
        arrays, metadata = schuss.checkpoint.read(path)
        again = self.directory / f"again{path.suffix}"
        target.optimizer.save(again, params=bool(metadata["params"]))
        saved, written = schuss.checkpoint.read(again)
        if numbers(metadata) != numbers(written):
            raise BrokenPromiseError(
                f"{target.name}: other numbers than in the file: {numbers(written)}, not {numbers(metadata)}"
            )
        if by_name(arrays, metadata) != by_name(saved, written):
            raise BrokenPromiseError(f"{target.name}: other arrays than in the file")


def innermost(metadata: Any) -> Any:
    while "wrapper" in metadata:
        metadata = metadata["optimizer"]
    return metadata


def numbers(metadata: Any) -> Any:
    """Return the counts that a file gives."""
    inner = innermost(metadata)
    counts = dict(zip(inner["names"], inner.get("counts", []), strict=False))
    return repr((sorted(counts.items()), inner.get("t"), inner.get("numbers"), metadata.get("own", {}).get("numbers")))


def by_name(arrays: dict[str, np.ndarray], metadata: Any) -> dict[str, Any]:
    """Return the arrays of tensors by their tensors' names, and the others if the tensors are in our order."""
    names = innermost(metadata)["names"]
    found: dict[str, Any] = {}
    for key, array in arrays.items():
        where, _, last = key.rpartition(".")
        if last.isdigit():
            found[f"{where} of {names[int(last)]}"] = array.dtype.name, array.shape, array.tobytes()
        elif names == sorted(names, reverse=True):
            found[key] = array.dtype.name, array.shape, array.tobytes()
    return found


# ---- mutations -------------------------------------------------------------------------------------------------------


@dataclass
class Content:
    """What is in a file: the record, and the arrays' bytes by name."""

    record: Any
    data: dict[str, bytes]

    @classmethod
    def of(cls, file: bytes, suffix: str) -> Content:
        """Take a good file apart; raise something if it is none."""
        if suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(file)) as archive:
                members = {each.filename: archive.read(each) for each in archive.infolist()[:100]}
            record = json.loads(members.pop(RECORD))
            del members[DIGEST]
            skip = {name: 10 + struct.unpack("<H", each[8:10])[0] for name, each in members.items()}
            return cls(record, {name[:-4]: each[skip[name] :] for name, each in members.items()})
        size = struct.unpack("<Q", file[:8])[0]
        header = json.loads(file[8 : 8 + size])
        record = json.loads(header.pop("__metadata__")[RECORD])
        rest = file[8 + size :]
        return cls(record, {name: rest[slice(*each["data_offsets"])] for name, each in header.items()})

    def packed(self, suffix: str, rng: random.Random) -> bytes:
        """Return the file, whose lengths, checksums and digest are right."""
        text = json.dumps(self.record)
        if rng.random() < 0.05:  # what no parser should take
            digits = [i for i, character in enumerate(text) if character.isdigit()]
            where = rng.choice(digits) if digits else 0
            text = (
                text[:where] + rng.choice(["NaN", "1e999", "-Infinity", "9" * 5000, '"a": 1, "a"']) + text[where + 1 :]
            )
        digest = hashlib.sha256(text.encode())
        for each in self.data.values():
            digest.update(each)
        texts = {RECORD: text, DIGEST: digest.hexdigest()}
        shapes = {row[0]: row[1:] for row in rows(self.record) if isinstance(row[0], str)}
        if suffix == ".npz":
            return self._npz(texts)
        offset, header = 0, {"__metadata__": texts}
        for name, each in self.data.items():
            kind, shape = shapes.get(name, ("uint8", [len(each)]))
            kinds = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64"}
            entry = {"dtype": kinds.get(str(kind), "U8"), "shape": shape if str(kind) in kinds else [len(each)]}
            header[name] = entry | {"data_offsets": [offset, offset + len(each)]}
            offset += len(each)
        head = json.dumps(header).encode()
        return struct.pack("<Q", len(head)) + head + b"".join(self.data.values())

    def _npz(self, texts: dict[str, str]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in texts.items():
                archive.writestr(zipfile.ZipInfo(name), text)
            for name, each in self.data.items():
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), b"\x93NUMPY\1\0\2\0{}" + each)
        return file.getvalue()


def rows(record: Any) -> list[Any]:
    found = record.get("arrays") if isinstance(record, dict) else None
    return [row for row in found if isinstance(row, list) and len(row) == 3] if isinstance(found, list) else []


RUBBISH: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**53, 2**62 - 1, 2**62, 2**63, 2**64, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, -0.5, 1.0, 1e308, 5e-324, {"__float__": "nan"}, {"__float__": "inf"}, {"__float__": "x"}),
    *("", "x", "['w']", "['b'][0]", "Adam", "SGD", "EMA", "m", "float32", "object", "a\nb", "\ud800", "\0", "x" * 3000),
    *([], {}, [[]], [1, [2]], {"a": 1}, [None], ["x", "y" * 3000], {"__array__": "param.0"}, {"__array__": []}),
)


def mutated(content: Content, rng: random.Random) -> Content:
    """Change content, in a way for which no file has to be damaged, and return it."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        choice = rng.random()
        if choice < 0.7:
            change_record(content.record, rng)
        elif choice < 0.9 and rows(content.record):
            change_array(content, rng.choice(rows(content.record)), rng)
        elif content.data:
            name = rng.choice(list(content.data))
            if rng.random() < 0.5:
                del content.data[name]
            else:
                content.data[rng.choice(["slot.m.0", "param.0", "x", f"{name}0"])] = content.data[name]
    return content


def change_record(record: Any, rng: random.Random) -> None:
    """Replace, remove, repeat or move something somewhere in the record."""
    places: list[tuple[Any, Any]] = []
    pending = [record]
    while pending:
        parent = pending.pop()
        if isinstance(parent, dict | list):
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            places += [(parent, key) for key in keys]
            pending += [parent[key] for key in keys]
    if not places:
        return
    parent, key = rng.choice(places)
    choice = rng.random()
    if choice < 0.45:
        parent[key] = copy.deepcopy(rng.choice(RUBBISH))
    elif choice < 0.55:
        del parent[key]
    elif choice < 0.7:
        other, there = rng.choice(places)
        if there in other if isinstance(other, dict) else there < len(other):
            parent[key] = copy.deepcopy(other[there])
    elif choice < 0.8:
        if isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
        else:
            parent[rng.choice(["x", "m", "lr", "format", "params", "0"])] = copy.deepcopy(parent[key])
    elif choice < 0.9 and isinstance(parent, list):
        rng.shuffle(parent)
    elif choice < 0.95 and isinstance(parent[key], int | float):
        parent[key] = parent[key] + rng.choice([-1, 1, 0.5, 2**40])
    else:
        for _ in range(rng.choice((2, 10, 70, 500))):
            parent[key] = [parent[key]]


def change_array(content: Content, row: list[Any], rng: random.Random) -> None:
    """Give an array other values, or another dtype or shape, with bytes that are as many as it takes."""
    name = row[0]
    if not isinstance(name, str) or name not in content.data:
        return
    if rng.random() < 0.4:
        values = bytearray(content.data[name])
        for _ in range(rng.randrange(1, 4) if values else 0):
            values[rng.randrange(len(values))] = rng.choice([0, 1, 0x7F, 0x80, 0xF0, 0xFF])
        content.data[name] = bytes(values)
        return
    if rng.random() < 0.5:
        row[1] = rng.choice(["float16", "float32", "float64", "int64", "bool", "bfloat16", "complex128", "uint16"])
    if rng.random() < 0.7:
        row[2] = rng.choice(
            [[], [0], [1], [2], [3], [2, 3], [3, 2], [6], [2**40, 0], [2**62, 2**62, 0], [1] * 64, [1] * 65]
        )
    size = {
        "float16": 2,
        "float32": 4,
        "float64": 8,
        "int64": 8,
        "bool": 1,
        "bfloat16": 2,
        "complex128": 16,
        "uint16": 2,
    }
    count = 1
    for length in row[2] if isinstance(row[2], list) else []:
        count *= length if isinstance(length, int) else 1
    wanted = min(max(count, 0), 1000) * size.get(row[1] if isinstance(row[1], str) else "", 8)
    content.data[name] = (content.data[name] * (wanted // max(len(content.data[name]), 1) + 1))[:wanted].ljust(
        wanted, b"\0"
    )


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that are changed, gone, or more in a few places."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        where, removed = rng.randrange(len(data) + 1), rng.choice((0, 1, 1, 2, 4, 8, 40))
        added = rng.choice(
            (b"", rng.randbytes(removed), bytes(removed), b"\xff" * removed, b"PK\1\2", b"PK\5\6", rng.randbytes(1))
        )
        data = data[:where] + added + data[where + removed :]
    return data


def mutate(data: bytes, rng: random.Random, change: Callable[[bytes], bytes] | None = None) -> bytes:
    """Return another input; `change` changes bytes."""
    suffix = SUFFIXES[data[0] % 2] if data else ""
    if data and rng.random() < 0.5:
        try:
            changed = mutated(Content.of(data[1:], suffix), rng)
            head = data[:1] if rng.random() < 0.98 else rng.randbytes(1)
            return head + changed.packed(SUFFIXES[head[0] % 2], rng)
        except Exception:  # it was no good file, or what it holds cannot be packed
            pass
    return change(data) if change else changed_bytes(data, rng)


# ---- the two ways to run ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fuzzer() -> Iterator[Fuzzer]:
    """Give a fuzzer whose files are in memory where there is such a file system."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="schuss-fuzz-", dir=shm if shm.is_dir() else None) as directory:
        yield Fuzzer(Path(directory))


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let memory grow by no more than the limit: what asks for more gets a MemoryError."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def by_chance(inputs: int, seed: int) -> Fuzzer:
    """Load inputs that are mutations of the first ones; an input that breaks a promise is written to the disk."""
    rng = random.Random(seed)
    with fuzzer() as target, limited_memory():
        seeds = target.seeds()
        for data in seeds:
            target.run(data)
        if target.accepted != len(seeds):
            raise BrokenPromiseError("good files are refused")
        for _ in range(inputs - len(seeds)):
            data = mutate(rng.choice(seeds), rng)
            try:
                target.run(data)
            except BaseException:
                name = f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
                Path(name).write_bytes(data)
                print(f"{name}: {len(data)} bytes", file=sys.stderr)
                raise
        return target


def instrument(*modules: Any) -> None:
    """Let libFuzzer see which lines are reached. Not at import: an editable installation has an importer of its own."""
    for module in modules:
        owners = [module, *(each for each in vars(module).values() if isinstance(each, type))]
        for each in [each for owner in owners for each in vars(owner).values()]:
            function = inspect.unwrap(getattr(each, "__func__", each))
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)


def by_coverage(arguments: list[str]) -> None:
    """Let libFuzzer choose; it keeps inputs that reach new code, and writes one that breaks a promise to the disk."""
    instrument(
        schuss.checkpoint, schuss.state, schuss.nested, schuss.second_order._base, schuss.second_order.lbfgs, zipfile
    )
    with fuzzer() as target, tempfile.TemporaryDirectory(prefix="schuss-corpus-") as first:
        for i, data in enumerate(target.seeds()):
            (Path(first) / str(i)).write_bytes(data)

        def custom_mutator(data: bytes, size: int, seed: int) -> bytes:
            return mutate(data, random.Random(seed), lambda data: atheris.Mutate(data, size))[:size]

        atheris.Setup(
            [*arguments, first, "-max_len=20000", "-rss_limit_mb=2048"], target.run, custom_mutator=custom_mutator
        )
        atheris.Fuzz()


def main() -> None:
    """Run as the command line says."""
    if sys.argv[1:2] == ["--plain"]:
        start = time.perf_counter()
        inputs, seed = int(sys.argv[2]), int((*sys.argv, 0)[3] if len(sys.argv) > 3 else 0)
        done = by_chance(inputs, seed)
        seconds = time.perf_counter() - start
        print(f"{done.inputs} inputs in {seconds:.0f} s, {done.accepted} of them taken; no promise broken")
    elif atheris is None:
        sys.exit("fuzz/checkpoint.py: needs atheris; pip install atheris, or pass --plain and a number of inputs")
    else:
        by_coverage(sys.argv)


if __name__ == "__main__":
    main()
