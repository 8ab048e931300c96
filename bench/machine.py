"""What a result was measured on and with."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from roofline import compiler
from threadpoolctl import threadpool_info

import schuss

CPU = Path("/sys/devices/system/cpu/cpu0")
PACKAGES = ("schuss", "numpy", "ml_dtypes", "torch")


def cores() -> int:
    """Return the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return the machine, as far as the system tells; what it does not tell is None."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "caches": _caches(),
        "governor": _read(CPU / "cpufreq" / "scaling_governor"),
        "huge_pages": _chosen(_read(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "environment": {name: value for name, value in os.environ.items() if re.match("OMP_|GOMP_|SCHUSS_", name)},
    }


def versions(*further: str) -> dict[str, str | None]:
    """Return the versions of Python, the packages (and `further` ones), and the compiler of the roofline."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*PACKAGES, *further):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["compiler"] = subprocess.run(
        [*compiler(), "--version"], check=True, capture_output=True, text=True
    ).stdout.splitlines()[0]
    return found


def runtime() -> dict[str, Any]:
    """Return what schuss says it runs, and the OpenMP pools in the process (contenders may share one)."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        schuss.show_runtime()
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "openmp"]
    return {"schuss": said.getvalue().strip().splitlines(), "openmp_pools": [pool["prefix"] for pool in pools]}


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _chosen(setting: str | None) -> str | None:
    """Return the bracketed word of a setting like "always [madvise] never"."""
    match = re.search(r"\[(\w+)\]", setting or "")
    return match[1] if match else None


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted((CPU / "cache").glob("index*")):
        kind, level, size = (_read(index / name) for name in ("type", "level", "size"))
        if kind and level and size:
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{letter}"] = size
    return found


def _memory_gib() -> float | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB$", _read(Path("/proc/meminfo")) or "", re.MULTILINE)
    return round(int(match[1]) / 2**20, 1) if match else None
