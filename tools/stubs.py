"""Write the committed type stubs, which the registry and the compiled module imply.

    python tools/stubs.py            write python/schuss/__init__.pyi and python/schuss/_core.pyi
    python tools/stubs.py --check    only say whether they are current

Needs schuss installed, with pybind11-stubgen and ruff.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import schuss

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "schuss"


def package_stub() -> str:
    """Return the stub of the package: what `__init__.py` imports, and every optimizer and wrapper of the registry by name."""
    source = (PACKAGE / "__init__.py").read_text()
    lines = [
        "# Written by tools/stubs.py.",
        "from schuss import catalogue as catalogue, constraints as constraints, reference as reference",
    ]
    for module, imported in re.findall(r"^ *from (schuss\S*) import ([^#\n]+?)(?:  #.*)?$", source, re.MULTILINE):
        public = [name for name in imported.split(", ") if name != "configure" and " as " not in name]
        lines += [f"from {module} import {name} as {name}" for name in public]
    found = [*schuss.optimizers().items(), *schuss.closure_optimizers().items(), *schuss.wrappers().items()]
    lines += [f"from {cls.__module__} import {name} as {name}" for name, cls in found]
    lines += ["", "__version__: str", "", "def optimizers() -> dict[str, type[Optimizer]]: ..."]
    lines += ["def closure_optimizers() -> dict[str, type[ClosureOptimizer]]: ..."]
    lines += ["def wrappers() -> dict[str, type[Wrapper]]: ..."]
    return "\n".join(lines) + "\n"


def core_stub() -> str:
    """Return the stub of the compiled module, from its own signatures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "schuss._core", "-o", folder, "--exit-code"]
        subprocess.run(command, check=True, capture_output=True)
        text = (Path(folder) / "schuss" / "_core.pyi").read_text()
        return re.sub(r"^(__version__: str) = .*$", r"\1", text, flags=re.MULTILINE)


def formatted(text: str, name: str) -> str:
    """Return a stub as ruff lays it out."""
    base = [sys.executable, "-m", "ruff", "--config", str(PACKAGE.parents[1] / "pyproject.toml")]
    command = [*base[:3], "check", "--select", "I", "--fix", "--quiet", *base[3:], "--stdin-filename", name, "-"]
    ordered = subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
    command = [*base[:3], "format", *base[3:], "--stdin-filename", name, "-"]
    return subprocess.run(command, input=ordered, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a stub is not current")
    check = parser.parse_args().check
    stale = []
    for name, make in {"__init__.pyi": package_stub, "_core.pyi": core_stub}.items():
        text, path = formatted(make(), name), PACKAGE / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text)
    if stale:
        print(", ".join(stale), "is not current: run python tools/stubs.py" if check else "written")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
