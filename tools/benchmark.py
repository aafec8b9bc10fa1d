#!/usr/bin/env python
"""Measure speed and memory of one or several models, turn and turn about, and print markdown.

Every round runs each contestant once, so that ratios hold on a machine with other work to do. All
of them get the same random images and boxes. `time / first` is the median, over the rounds, of a
contestant's time over that of the first config.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from argument_types import image_size, integer
from benchmark import run, table
from benchmark.cases import DTYPES, WORK, Case, Setting
from benchmark.loading import Source
from benchmark.scaling import AXES
from samdetr.engine import add_trust_option
from samdetr.errors import check_writable, refusing

EPILOG = """
examples:
  tools/benchmark.py --config-file configs/coco/sam_detr_r50_smca_12ep.py --profile
  tools/benchmark.py --config-file configs/coco/sam_detr_r50_12ep.py \\
      configs/coco/detr_r50_12ep.py --mode step --size 480x640 --batch 2 --memory --json step.json
  tools/benchmark.py --config-file configs/coco/sam_detr_r50_smca_12ep.py model.num_queries=100 \\
      --against baselines.official:official
  tools/benchmark.py --config-file configs/coco/sam_detr_r50_12ep.py --mode step \\
      --scale size queries batch boxes
  tools/benchmark.py --config-file configs/coco/sam_detr_r50_12ep.py --mode loading \\
      --photographs 64 --workers 2
"""
LOADING = "loading"
# Options that do not go with what is asked for.
WITHOUT_SCALE = ("memory", "profile")
WITHOUT_LOADING = ("against", "compile", "scale", *WITHOUT_SCALE)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", nargs="+", required=True, metavar="FILE", help="models; the first is 1.00")
    add(
        "--mode",
        choices=[*WORK, LOADING],
        default="forward",
        help="detections (default), whole training steps, or batches of the training loader",
    )
    add("--repeat", type=integer(1), default=7, help="rounds (default: 7)")
    add("--warmup", type=integer(0), default=2, help="rounds before them (default: 2)")
    add("--batch", type=integer(1), help="images at a time (default: 1; of a loader as it has it)")
    add("--threads", type=integer(1), help="of the CPU (default: as torch has it)")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    add("overrides", nargs="*", help="key=value, anywhere; for all configs")
    add_trust_option(parser)
    add_model_options(parser)
    loading = parser.add_argument_group("for --mode loading").add_argument
    loading("--batches", type=integer(1), default=8, help="of a turn (default: 8)")
    loading("--workers", type=integer(0), help="processes (default: as the config has it)")
    loading(
        "--photographs",
        type=integer(0),
        default=0,
        metavar="COUNT",
        help="instead of the config's data set load so many made-up images of 640x480",
    )
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("for --mode forward and step").add_argument
    add(
        "--against",
        nargs="+",
        default=[],
        metavar="MODULE:FUNCTION",
        help="takes the first config's model and returns the module to measure beside it",
    )
    add(
        "--compile",
        nargs="+",
        default=[],
        metavar="PART",
        help="every config competes once more with these submodules compiled; '.' is the whole",
    )
    add(
        "--size",
        type=image_size(1),
        default=(800, 1066),
        metavar="HEIGHTxWIDTH",
        help="of the images in pixels (default: 800x1066)",
    )
    add("--boxes", type=integer(0), default=8, help="objects per image (default: 8)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--weights", default="", help="file for all configs' models (default: random weights)")
    add("--memory", action="store_true", help="peak memory too, each in a process of its own")
    add("--profile", action="store_true", help="time by part of the model, and top operators")
    add("--scale", nargs="+", choices=AXES, default=[], help="instead, how time grows along axes")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with overrides wherever they stand: several options take lists before them."""
    overrides = [x for x in arguments if "=" in x and not x.startswith("-")]
    parser = argument_parser()
    options = parser.parse_args([x for x in arguments if x not in overrides])
    options.overrides += overrides
    asked = {
        "--mode loading": WITHOUT_LOADING if options.mode == LOADING else (),
        "--scale": WITHOUT_SCALE if options.scale else (),
    }
    for what, without in asked.items():
        for name in filter(lambda x: getattr(options, x), without):
            parser.error(f"--{name} does not go with {what}")
    return options


def setting_of(options: argparse.Namespace) -> Setting:
    return Setting(
        options.mode,
        options.size,
        options.batch or 1,
        options.boxes,
        options.device,
        options.dtype,
        options.weights,
    )


def benchmark_loading(cases: list[Case], options: argparse.Namespace) -> dict[str, Any]:
    source = Source(options.batches, options.batch, options.workers, options.photographs)
    results = run.time_loading(cases, source, options.repeat, options.warmup)
    print(table.loading_table(results))
    return {"results": results}


def benchmark_scale(cases: list[Case], options: argparse.Namespace) -> dict[str, Any]:
    points = run.scale(cases, setting_of(options), options.scale, options.repeat, options.warmup)
    print(table.scale_table(points))
    return {"scale": points}


def benchmark_models(cases: list[Case], options: argparse.Namespace) -> dict[str, Any]:
    setting = setting_of(options)
    results = run.time_cases(cases, setting, options.repeat, options.warmup, options.profile)
    if options.memory:
        run.add_memory(results, cases, setting)
    print(table.timing_table(results))
    for result in results:
        if "profile" in result:
            print(f"\n{result['name']}\n\n{table.profile_table(result['profile'])}")
    return {"results": results}


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for and print it; everything that is known about it."""
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = run.contestants(
        options.config_file,
        options.overrides,
        options.against,
        options.compile,
        options.trusted_config,
    )
    if options.mode == LOADING:
        measure = benchmark_loading
    else:
        measure = benchmark_scale if options.scale else benchmark_models
    figures = measure(cases, options)
    return {"options": vars(options), "machine": table.machine(options.device), **figures}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    with refusing("benchmark.py"):
        if options.json:
            check_writable(options.json)
        figures = {"command": ["tools/benchmark.py", *arguments], **benchmark(options)}
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
