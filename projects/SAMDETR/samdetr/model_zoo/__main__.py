"""Print the table of the zoo, or of the configs that match a pattern."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import list, table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m samdetr.model_zoo", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help='such as "coco/*_dn_*"')
    parser.add_argument("--names", action="store_true", help="names alone")
    options = parser.parse_args(arguments)
    found = list(options.pattern)
    if not found:
        parser.error(f"no config matches {options.pattern!r}")
    print("\n".join(found) if options.names else table(found))


if __name__ == "__main__":
    main()
