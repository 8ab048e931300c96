"""Fail unless the files of a release hold what they should: python .ci/wheel.py FILE... (sdists and wheels).

A wheel holds the package and one extension module without symbols, no library of anyone's, and takes at most 4 MB; files of the
same source agree with pyproject.toml about name and version, and nobody finds a path of the machine that built them.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

MOST = 4_000_000  # bytes of a wheel
PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What may be bundled beside the extension: the C++ library of the compiler for Windows, which no system has to have.
BUNDLED = re.compile(r"schuss\.libs/(msvcp140|vcruntime140)[^/]*\.dll|schuss\.libs/\.load-order-[^/]*")
EXTENSION = re.compile(r"schuss/_core\.[^/]*\.?(so|pyd)")


def described(metadata: str) -> Iterator[str]:
    """Yield one sentence for each fault of a file's metadata."""
    fields = email.message_from_string(metadata)
    for name in ("name", "version"):
        if fields[name] != PROJECT[name]:
            yield f"its {name} is {fields[name]}, not {PROJECT[name]}"
    if fields.get_all("Requires-Dist", [])[:1] != PROJECT["dependencies"]:
        yield f"it needs {fields.get_all('Requires-Dist')}"
    if fields["License-Expression"] != PROJECT["license"]:
        yield f"its licence is {fields['License-Expression']}"


def compiled(name: str, content: bytes) -> Iterator[str]:
    """Yield one sentence for each fault of an extension module."""
    here = str(Path(__file__).parents[1]).encode()
    if here in content:
        yield f"{name} names {here.decode()}, where it was built"
    if content.startswith(b"\x7fELF"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            sections = subprocess.run(["readelf", "-SW", file.name], capture_output=True, text=True, check=True).stdout
        for section in sorted(set(re.findall(r"\.symtab\b|\.debug_\w+|\.gnu\.lto\w*", sections))):
            yield f"{name} is not stripped: it has {section}"


def wheel(path: Path) -> Iterator[str]:
    """Yield one sentence for each fault of a wheel."""
    if path.stat().st_size > MOST:
        yield f"it takes {path.stat().st_size} bytes, more than {MOST}"
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = f"schuss-{PROJECT['version']}.dist-info/"
        extensions = [name for name in names if EXTENSION.fullmatch(name)]
        if len(extensions) != 1:
            yield f"it has {len(extensions)} extension modules, not one"
        for name in names:
            inside = name.startswith(info) or (
                name.startswith("schuss/") and name.endswith((".py", ".pyi", "py.typed"))
            )
            if not (inside or name in extensions or BUNDLED.fullmatch(name)):
                yield f"it has {name}"
        for name in ("schuss/py.typed", "schuss/_core.pyi", f"{info}licenses/LICENSE"):
            if name not in names:
                yield f"it lacks {name}"
        yield from described(archive.read(f"{info}METADATA").decode() if f"{info}METADATA" in names else "")
        for name in extensions:
            yield from compiled(name, archive.read(name))


def sdist(path: Path) -> Iterator[str]:
    """Yield one sentence for each fault of an sdist."""
    root = f"{PROJECT['name']}-{PROJECT['version']}"
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive}
        for name, member in members.items():
            if not name.startswith(f"{root}/") or not (member.isfile() or member.isdir()):
                yield f"it has {name}"
            if member.uid or member.gid or member.uname or member.gname:
                yield f"{name} belongs to {member.uname or member.uid}"
        for name in ("CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "tests/golden.json"):
            if f"{root}/{name}" not in members:
                yield f"it lacks {name}"
        metadata = members.get(f"{root}/PKG-INFO")
        stream = archive.extractfile(metadata) if metadata else None
        yield from described(stream.read().decode() if stream else "")


def main(*files: str) -> int:
    """Check files and return the exit code."""
    faults = [
        f"{Path(file).name}: {fault}"
        for file in files
        for fault in (wheel if file.endswith(".whl") else sdist)(Path(file))
    ]
    for file in files:
        print(f"{Path(file).stat().st_size:>9,} bytes  {Path(file).name}")
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults or not files else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
