#!/usr/bin/env python
"""Print the parameters and operations of a model as markdown.

GFLOPs are 1e9 multiply-adds per image at inference, averaged over the image sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark import flops as analysis
from benchmark import paper_table as paper
from samdetr.engine import add_trust_option, load_config
from samdetr.errors import refusing

CONFIGS = Path(__file__).parents[1] / "configs" / "coco"


@refusing("analyze_model.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", help="config of the model whose parts to list")
    what.add_argument(
        "--paper",
        action="store_true",
        help="list tables 1 and 2 of the paper; takes minutes, because the ConvNets are run",
    )
    parser.add_argument(
        "--size",
        dest="sizes",
        action="append",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="image size in pixels, may be repeated (default: 800 1067 and 800 1199)",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, for --config-file")
    add_trust_option(parser)
    options = parser.parse_intermixed_args(arguments)
    if options.paper and options.overrides:
        parser.error("overrides require --config-file, not --paper")
    sizes = options.sizes or analysis.COCO_SIZES
    if options.paper:
        print(paper.paper_table(CONFIGS, sizes))
    else:
        cfg = load_config(options.config_file, options.overrides, options.trusted_config)
        model = analysis.build(cfg.model)
        print(analysis.part_table(analysis.analyze(model, sizes)))


if __name__ == "__main__":
    main()
