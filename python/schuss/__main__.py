"""The runtime and the catalogue, as a table: `python -m schuss`."""

from __future__ import annotations

import argparse
import json
import sys

import schuss
from schuss import catalogue
from schuss._runtime import runtime


def _positive(text: str) -> int:
    """Return a number of elements, which may be written as 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (number >= 0 and number == int(number) and number <= 1e10):
        raise argparse.ArgumentTypeError(f"must be a whole number up to 1e10, got {text!r}")
    return int(number)


def main(arguments: list[str] | None = None) -> int:
    """Print what runs and what there is."""
    parser = argparse.ArgumentParser(
        prog="python -m schuss",
        description="What runs on this machine, and every optimizer: source, state, kind, steps per second.",
    )
    parser.add_argument(
        "--elements",
        type=_positive,
        default=1_000_000,
        help="float32 parameters to step (default 1e6; 0: do not measure)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--markdown", action="store_true", help="the catalogue as a page, without measurements")
    options = parser.parse_args(arguments)
    if options.markdown:
        print(catalogue.markdown(), end="")
        return 0
    rows = catalogue.rows(options.elements)
    if options.json:
        print(json.dumps({"runtime": runtime(), "elements": options.elements, "optimizers": rows}, indent=1))
        return 0
    schuss.show_runtime()
    speed = f"   steps/s at {options.elements:,}" if options.elements else ""
    print(f"\n{'optimizer':<20}{'kind':<13}{'state B/param':>13}{speed}   source")
    for row in rows:
        source = catalogue.Source(**row["source"])
        named = f"{source}  {source.link}" if source.year and source.link else str(source)
        steps = f"{row['steps_per_second']:>{len(speed)},.0f}" if options.elements else ""
        print(f"{row['name']:<20}{row['kind']:<13}{row['state_bytes']:>13g}{steps}   {named}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
