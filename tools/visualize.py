#!/usr/bin/env python
"""Draw what the decoder of one or several models looks at, layer by layer and head by head.

For every image OUTPUT/NAME_layers.png has the reference box, the keypoints and the attention in
each decoder layer (figure 3 of the paper) and OUTPUT/NAME_queryN.png the attention of every head
(figure 5) and, w/ SMCA, the Gaussian that holds it around its keypoint. Queries are those of the
first model; the other models show the query that stands for the same object.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.config import instantiate

from argument_types import integer
from samdetr import inspection, model_zoo
from samdetr.engine import add_trust_option
from samdetr.errors import EXIT_CODE, refusing

SHIPPED = "mini/sam_detr_smca"
EPILOG = """
examples:
  tools/visualize.py --html
  tools/visualize.py photo.jpg --queries 3 17 --output output/photo \\
      --model coco/sam_detr_r50_smca_12ep sam_detr.pth --model coco/detr_r50_12ep detr.pth
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "images",
        nargs="*",
        help="files, folders and patterns (default: the first of the test set of the first config)",
    )
    add(
        "--model",
        nargs=2,
        action="append",
        metavar=("CONFIG", "CHECKPOINT"),
        help="a config's file or name in the zoo, and the file or URL of its weights; may be given "
        f"several times (default: {SHIPPED} and the weights that come with it)",
    )
    add("--queries", nargs="+", type=int, default=[], metavar="N", help="indices, from 0")
    add("--top", type=integer(1), default=3, help="without --queries, so many best (default: 3)")
    add("--count", type=integer(1), default=2, help="without images, so many (default: 2)")
    add("--output", type=Path, default=Path("output/inside"), help="default: output/inside")
    add("--html", action="store_true", help="OUTPUT/index.html too, a page with a slider of layers")
    add("--dpi", type=integer(1), default=100, help="of the pictures (default: 100)")
    add("--device", help="such as cpu (default: a GPU if there is one)")
    add_trust_option(parser)
    return parser


def visualize(options: argparse.Namespace) -> list[str]:
    """Draw what the options ask for; what is wrong with images that could not be read."""
    records = inspection.image_records(options.images)
    options.output.mkdir(parents=True, exist_ok=True)
    pairs = options.model or [(SHIPPED, model_zoo.get_checkpoint(SHIPPED))]
    models = inspection.load_contestants(pairs, options.device, options.trusted_config)
    records = records or instantiate(models[0].cfg.dataloader.test.dataset)[: options.count]
    written, failures = inspection.draw_images(
        models,
        records,
        options.output,
        options.queries,
        options.top,
        options.html,
        options.dpi,
    )
    for file in written:
        print(file)
    return failures


@refusing("visualize.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_args(arguments)
    failures = visualize(options)
    if failures:
        parser.exit(EXIT_CODE, "".join(f"{parser.prog}: {x}\n" for x in failures))


if __name__ == "__main__":
    main()
