#!/usr/bin/env python
"""Count the parameters and the operations of a model, in markdown.

GFLOPs are 1e9 multiply-adds for one image at inference, the mean of the sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark import flops as analysis
from benchmark import paper_table as paper
from samdetr.engine import add_trust_option, load_config
from samdetr.errors import refusing

CONFIGS = Path(__file__).parents[1] / "configs" / "coco"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", help="the model whose parts to list")
    what.add_argument(
        "--paper",
        action="store_true",
        help="list the rows of the paper's tables 1 and 2; minutes, for the ConvNets must run",
    )
    parser.add_argument(
        "--size",
        dest="sizes",
        action="append",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of an image in pixels, as often as wanted (default: 800 1067 and 800 1199)",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, for --config-file")
    add_trust_option(parser)
    options = parser.parse_args(arguments)
    if options.paper and options.overrides:
        parser.error("overrides go with --config-file, not with --paper")
    sizes = options.sizes or analysis.COCO_SIZES
    with refusing(parser.prog):
        if options.paper:
            print(paper.paper_table(CONFIGS, sizes))
        else:
            cfg = load_config(options.config_file, options.overrides, options.trusted_config)
            model = analysis.build(cfg.model)
            print(analysis.part_table(analysis.analyze(model, sizes)))


if __name__ == "__main__":
    main()
