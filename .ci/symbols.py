"""Fail unless the objects for one instruction set keep to themselves and nothing fuses a product and a sum.

Usage: symbols.py BUILD_DIRECTORY EXTENSION (the built _core*.so); CROSS_COMPILE=aarch64-linux-gnu- for that machine's

An inline function compiled for AVX-512 that the linker picks for everybody is an illegal instruction on someone's
laptop, an initialiser runs before the choice of instruction set, a global is state, and a fused multiply-add rounds
once where NumPy rounds twice. So an object for one instruction set defines one global symbol and nothing weak, writable
or run at load.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# x86 (FMA3 ends in 132, 213 or 231; FMA4 does not), then aarch64.
FUSED = re.compile(r"vfn?m(add|sub|addsub|subadd)(132|213|231)?[ps][sdh]|fn?m(add|sub)|fml[as]l?2?|bfmlal[bt]")
EXPORTED = {"PyInit__core", "schuss_limit_threads", "schuss_num_threads"}  # for Python, and for threadpoolctl
WRITABLE = re.compile(r"\.t?(data|bss)(?!\.rel\.ro)(\..*)?")  # relocated constants are read-only after loading
RUN_AT_LOAD = re.compile(r"\.((pre)?init_array|fini_array|ctors|dtors)(\..*)?")


def output(tool: str, *arguments: str) -> str:
    """Return what one of binutils prints."""
    return subprocess.run(
        [os.environ.get("CROSS_COMPILE", "") + tool, *arguments], check=True, capture_output=True, text=True
    ).stdout


def fused(binary: Path) -> Iterator[str]:
    """Yield one sentence for each kind of fused multiply-add in a binary."""
    code = output("objdump", "-d", "--no-show-raw-insn", str(binary))
    found = {line.split()[1] for line in code.splitlines() if line.startswith(" ") and len(line.split()) > 1}
    for mnemonic in sorted(filter(FUSED.fullmatch, found)):
        yield f"has the fused instruction {mnemonic}"


def isolated(binary: Path) -> Iterator[str]:
    """Yield one sentence for each way in which the object for one instruction set could affect the others."""
    symbols = [line.split() for line in output("nm", "-C", str(binary)).splitlines()]
    kinds = [(fields[-2], fields[-1]) if fields[0] == "U" else (fields[1], " ".join(fields[2:])) for fields in symbols]
    if shared := [name for kind, name in kinds if kind in "WwVvui"]:
        yield f"has {len(shared)} weak, unique or indirect symbols: {'; '.join(shared[:5])}"
    exported = [name for kind, name in kinds if kind.isupper() and kind not in "UWV"]
    if len(exported) != 1:
        yield f"defines {len(exported)} global symbols ({', '.join(exported)}), not one"
    for line in output("readelf", "-SW", str(binary)).splitlines():
        if section := re.match(r"\s*\[\s*\d+\]\s+(\.\S+)\s+\S+\s+\S+\s+\S+\s+(\S+)", line):
            name, size = section[1], int(section[2], 16)
            if size and (WRITABLE.fullmatch(name) or RUN_AT_LOAD.fullmatch(name)):
                yield f"has {size} bytes in {name}"


def linked(extension: Path) -> Iterator[str]:
    """Yield one sentence for each fault of the extension module as a shared library."""
    exported = {line.split()[-1] for line in output("nm", "-D", "--defined-only", str(extension)).splitlines()}
    if exported != EXPORTED:
        yield f"exports {', '.join(sorted(exported))}, not {', '.join(sorted(EXPORTED))}"
    segments = [line.split() for line in output("readelf", "-lW", str(extension)).splitlines() if line.strip()]
    if any(fields[0] == "GNU_STACK" and "E" in fields[-2] for fields in segments):
        yield "has an executable stack"
    if not any(fields[0] == "GNU_RELRO" for fields in segments):
        yield "has relocations that stay writable (no RELRO)"
    dynamic = output("readelf", "-dW", str(extension))
    if not re.search(r"\((?:BIND_NOW|FLAGS)\).*BIND_NOW|\(FLAGS_1\).*\bNOW\b", dynamic):
        yield "has a table of functions that stays writable (no BIND_NOW)"
    for line in dynamic.splitlines():
        if re.search(r"\((?:RPATH|RUNPATH|TEXTREL)\)", line):
            yield f"has a dynamic entry that it must not have: {line.strip()}"


def objects(build: Path) -> Iterator[tuple[Path, bool]]:
    """Yield every object of a build, and whether it is compiled for one instruction set."""
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        command = shlex.split(entry["command"])
        path = Path(entry["directory"], command[command.index("-o") + 1])
        yield path, any(flag.startswith("-march=") for flag in command)


def main(build: str, extension: str) -> int:
    """Check a build directory and its extension, and return the exit code."""
    every = list(objects(Path(build)))
    per_set = [path for path, one_set in every if one_set]
    faults = [f"{path}: {fault}" for path in per_set for fault in isolated(path)]
    faults += [f"{path}: {fault}" for path, _ in every for fault in fused(path)]
    faults += [f"{extension}: {fault}" for check in (linked, fused) for fault in check(Path(extension))]
    print(f"{len(per_set)} objects compiled for one instruction set, {len(every)} in all, and {Path(extension).name}")
    print(*faults, sep="\n")
    return 1 if faults or not per_set else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
