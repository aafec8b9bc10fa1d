#!/usr/bin/env python
"""Measure the speed and memory of one or several models and print markdown.

Every round runs each contestant once, so ratios hold on a machine with other load. All contestants
get the same random images and boxes. `time / first` is the median over the rounds of a contestant's
time divided by that of the first config.
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
from samdetr.engine.config import split_overrides
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
# Options that exclude --scale and --mode loading.
WITHOUT_SCALE = ("memory", "profile")
WITHOUT_LOADING = ("against", "compile", "scale", *WITHOUT_SCALE)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--config-file",
        nargs="+",
        required=True,
        metavar="FILE",
        help="configs; ratios are to the first",
    )
    add(
        "--mode",
        choices=[*WORK, LOADING],
        default="forward",
        help="inference (default), training steps, or batches of the training loader",
    )
    add("--repeat", type=integer(1), default=7, help="rounds (default: 7)")
    add("--warmup", type=integer(0), default=2, help="untimed rounds before them (default: 2)")
    add("--batch", type=integer(1), help="batch size (default: 1; for a loader its own)")
    add("--threads", type=integer(1), help="CPU threads (default: torch's)")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    add("overrides", nargs="*", help="key=value for all configs; may stand anywhere")
    add_trust_option(parser)
    add_model_options(parser)
    loading = parser.add_argument_group("for --mode loading").add_argument
    loading("--batches", type=integer(1), default=8, help="batches per round (default: 8)")
    loading("--workers", type=integer(0), help="worker processes (default: the config's)")
    loading(
        "--photographs",
        type=integer(0),
        default=0,
        metavar="COUNT",
        help="load COUNT synthetic 640x480 images instead of the config's data set",
    )
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("for --mode forward and step").add_argument
    add(
        "--against",
        nargs="+",
        default=[],
        metavar="MODULE:FUNCTION",
        help="maps the first config's model to a module to measure beside it",
    )
    add(
        "--compile",
        nargs="+",
        default=[],
        metavar="PART",
        help="also run every config with these submodules compiled; '.' is the whole model",
    )
    add(
        "--size",
        type=image_size(1),
        default=(800, 1066),
        metavar="HEIGHTxWIDTH",
        help="image size in pixels (default: 800x1066)",
    )
    add("--boxes", type=integer(0), default=8, help="objects per image (default: 8)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--weights", default="", help="checkpoint for all configs (default: random weights)")
    add(
        "--memory",
        action="store_true",
        help="also measure peak memory, each contestant in its own process",
    )
    add(
        "--profile",
        action="store_true",
        help="also list time by part of the model and the slowest operators",
    )
    add(
        "--scale",
        nargs="+",
        choices=AXES,
        default=[],
        help="measure how time scales along these axes instead",
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse options. Overrides may stand anywhere, even after options that take lists."""
    words, overrides = split_overrides(arguments)
    parser = argument_parser()
    options = parser.parse_intermixed_args(words)
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
    """Measure and print what the options ask for; return all figures for JSON."""
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


@refusing("benchmark.py")
def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.json:
        check_writable(options.json)
    figures = {"command": ["tools/benchmark.py", *arguments], **benchmark(options)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
