#!/usr/bin/env python
"""Detect objects in images, videos or what a camera sees; draw them, and list them as COCO results.

Without options that is the small detector of digits that comes with the package, on its picture.

Exit code: 0; 2 if nothing could be done, which is one sentence on stderr, or if an image could not
be read. Of many the others are done all the same, and those that failed are listed at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

# What Detectron2's import says on today's torch; nobody who runs this can change it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
# What OpenCV and its FFmpeg say beside our sentence when a video or camera cannot be opened.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

try:
    from samdetr import Predictor
    from samdetr.data import example_image
    from samdetr.demo import Plan, plan_camera, plan_files, run
    from samdetr.engine import add_trust_option
    from samdetr.errors import EXIT_CODE, refusing
except ModuleNotFoundError as error:
    if error.name != "samdetr":
        raise
    sys.exit(
        f"demo.py: samdetr is not installed for {sys.executable}: run `make env` and use "
        ".venv/bin/python, or `pip install -e .`"
    )

EPILOG = """
examples:
  demo.py --output digits.png
  demo.py --input photos 'more/*.png' clip.mp4 --output drawn --json drawn/results.json
  demo.py --config-file coco/sam_detr_pp_r50_smca_12ep --checkpoint sam_detr_pp.pth \\
      --input photos --json results.json
  demo.py --config-file output/run1/config.yaml --checkpoint output/run1/model_best.pth --webcam
  demo.py --input val2017 --annotations instances_val2017.json --threshold 0 --json results.json
"""
OUTPUT = Path("output/detections")


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--input",
        nargs="+",
        default=[example_image()],
        metavar="PATH",
        help="images, videos, folders of them, and patterns (default: the package's picture)",
    )
    source.add_argument(
        "--webcam",
        type=int,
        nargs="?",
        const=0,
        metavar="NUMBER",
        help="camera (default: 0); Escape in its window or Ctrl-C ends it",
    )
    add(
        "--output",
        type=Path,
        metavar="PATH",
        help="a folder, or of one image or video a file (default: output/detections; of a camera "
        "a window; nothing is drawn if there is --json alone)",
    )
    add("--json", type=Path, metavar="FILE", help="write detections as COCO results")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file with the ids of the images, found by file name, and of the categories "
        "(default: 1, 2, 3, ... and those of the config's data set)",
    )
    model = parser.add_argument_group("detector").add_argument
    model(
        "--config-file",
        default="mini/sam_detr_smca",
        metavar="CONFIG",
        help="name in the zoo, or a file (default: mini/sam_detr_smca)",
    )
    model("--checkpoint", metavar="FILE", help="file or URL (default: the package's)")
    model("--device", help="such as cpu (default: a GPU if there is one)")
    model("--threshold", type=float, default=0.5, help="lowest score (default: 0.5)")
    model("--batch-size", type=int, default=1, help="images at a time (default: 1)")
    add_trust_option(parser)
    model("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


def make_plan(options: argparse.Namespace) -> Plan:
    if options.webcam is not None:
        return plan_camera(options.webcam, options.output, options.json)
    output = options.output or (None if options.json else OUTPUT)
    return plan_files(options.input, output, options.json, options.annotations)


def make_predictor(options: argparse.Namespace) -> Predictor:
    return Predictor(
        options.config_file,
        options.checkpoint,
        options.device,
        options.threshold,
        options.batch_size,
        options.opts,
        options.trusted_config,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_args(arguments)
    with refusing(parser.prog):
        plan = make_plan(options)
        report = run(make_predictor(options), plan)
    print(f"{report.detections} detections in {report.images} images")
    if report.failures:
        count = len(report.failures)
        listed = "\n".join(f"  {x}" for x in report.failures)
        parser.exit(EXIT_CODE, f"{parser.prog}: {count} images could not be read:\n{listed}\n")


if __name__ == "__main__":
    main()
