"""Write the tables of docs/performance.md and docs/choosing.md from bench/results, so that pages and files agree.

    python bench/page.py             write them
    python bench/page.py --check     only say whether they are current

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end -->`; NAME is a function of this file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import schuss

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / name for name in ("performance.md", "choosing.md")]

Row = dict[str, Any]

#: What is no library that someone would use instead.
BASELINES = ("torch foreach", "torch default", "NumPy", "NumPy in place", "pure Python")


@cache
def result(name: str) -> Row:
    loaded: Row = json.loads((ROOT / f"bench/results/{name}.json").read_text())
    return loaded


def rows(name: str, **wanted: Any) -> list[Row]:
    """Return the rows of a file in which some entries have the wanted values."""
    return [row for row in result(name)["results"] if all(row[key] == value for key, value in wanted.items())]


def row(name: str, **wanted: Any) -> Row:
    (found,) = rows(name, **wanted)
    return found


def times(found: Row) -> str:
    """Return a ratio with the ends of its interval."""
    return f"{found['ratio']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def table(head: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


# ---- the tables -----------------------------------------------------------------------------------------------------


def machine() -> str:
    found = result("compare")
    caches = found["machine"]["caches"]
    versions = ", ".join(
        f"{name} {found['versions'][name]}"
        for name in ("numpy", "torch", "deepspeed", "jax", "optax", "numba", "thinc")
    )
    return (
        f"`compare.json`: {found['machine']['cpu']}, {found['machine']['cores']} cores, L2 {caches['L2']} each, "
        f"L3 {caches['L3']}; {versions}; {found['date'][:10]}."
    )


def nearest() -> str:
    """Return, for each row with two threads, the loop for numba and the library that comes nearest."""

    def lines() -> Iterator[Sequence[str]]:
        for each in rows("compare", threads_allowed=2):
            peers = dict(each["peers"])
            numba = peers.pop("numba")
            libraries = {name: peer for name, peer in peers.items() if name not in BASELINES}
            name, peer = min(libraries.items(), key=lambda item: item[1]["ratio"])
            floor = f"{each['roofline']['share'] * 100:.0f} %" if each.get("roofline") else "(overhead)"
            yield each["title"], each["label"], duration(each["seconds"]), floor, times(numba), f"{times(peer)}, {name}"

    head = ["workload", "rule", "schuss", "of the roofline", "numba, by hand", "the nearest library"]
    return table(head, lines())


def advice() -> str:
    """Return what some choices bring, or cost."""
    many = row("compare", workload="tiny-1000", label="AdamW", threads_allowed=1)
    shares = {
        workload: [row("compare", workload=workload, label="AdamW", threads_allowed=n)["seconds"] for n in (1, 2)]
        for workload in ("large", "resnet18", "small", "cache")
    }
    around = {workload: row("around", workload=workload, label="AdamW")["additions"] for workload in ("large", "cache")}
    narrow = [
        row("narrow", workload=f"large-{each}", label="AdamW", threads_allowed=2) for each in ("float16", "bfloat16")
    ]

    def lines() -> Iterator[Sequence[str]]:
        numpy = row("compare", workload="tiny-1000", label="AdamW", threads_allowed=2)["peers"]["NumPy"]
        yield (
            "one optimizer for all tensors",
            f"1000 tensors of 10 elements: {duration(many['seconds'])} a step, {many['seconds'] * 1e6 / 1000:.2g} µs a tensor; "
            f"NumPy takes {numpy['ratio']:.3g} times as long",
            "compare.json",
        )
        for workload, (one, two) in shares.items():
            title = row("compare", workload=workload, label="AdamW", threads_allowed=1)["title"]
            yield f"two threads, {title}", f"{duration(one)} with one, {duration(two)} with two", "compare.json"
        for name, what in (
            ("l2", "`l2=`"),
            ("clip, norm", "`clip=schuss.ClipNorm(...)`"),
            ("EMA", "`schuss.EMA(opt)`"),
        ):
            found = [additions[name] for additions in around.values()]
            yield (
                what,
                f"{found[0]['ratio']:.2f} times the step at 20 million, {found[1]['ratio']:.2f} in cache",
                "around.json",
            )
        half, brain = (each["of_float32"]["ratio"] for each in narrow)
        yield (
            "16-bit parameters, gradients and state",
            f"half the memory; {half:.2f} (float16) and {brain:.2f} (bfloat16) times the time of float32, without AVX-512",
            "narrow.json",
        )

    return table(["AdamW, float32", "what was measured", "file"], lines())


#: What the page on choosing names; the race has all.
NAMED = (
    *("AdamW", "SGD", "LAMB", "LARS", "Muon", "SOAP", "Shampoo", "Adafactor", "SM3", "Lion", "AdamMini", "Prodigy"),
    *("DAdaptAdam", "ScheduleFreeAdamW", "Adagrad", "FTRL", "Yogi", "ADOPT", "Signum", "Rprop", "COCOB", "DoG", "DoWG"),
    *("PolyakSGD", "MoMo", "OptimisticAdam", "SophiaH", "AdaHessian"),
)


def candidates() -> str:
    """Return what the race found of the optimizers that the page names."""

    def lines() -> Iterator[Sequence[str]]:
        for name in NAMED:
            cls = schuss.optimizers()[name]
            digits, logistic = (row("race", optimizer=name, problem=each) for each in ("digits", "logistic"))
            kept = f"{schuss.catalogue.describe(cls).state_bytes:.3g}"
            rate, default = f"{digits['lr']:.2g}", f"{float(cls.hyperparameters['lr'].default):.2g}"
            shape = "along a cosine" if digits["schedule"] == "cosine" else "constant"
            yield f"`{name}`", kept, default, f"{rate}, {shape}", f"{digits['result']:.1%}", f"{logistic['result']:.4f}"

    head = ["optimizer", "bytes of state per float32", "default lr", "lr on digits", "digits", "logistic regression"]
    return table(head, lines())


TABLES = {each.__name__: each for each in (machine, nearest, advice, candidates)}


def written(text: str) -> str:
    """Return a page with its tables made anew."""
    pattern = re.compile(r"(<!-- table: (\w+) -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not current")
    check = parser.parse_args(arguments).check
    for page in PAGES:
        before = page.read_text()
        after = written(before)
        if check and before != after:
            sys.exit(f"{page} is not what the results say: run python bench/page.py")
        if not check:
            page.write_text(after)


if __name__ == "__main__":
    main()
