"""Markdown tables of results, and a description of the machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from samdetr.model_zoo import markdown_table

GIGA = 2**30


def machine(device: str) -> dict[str, Any]:
    """Describe hardware and software that figures depend on."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """Return the processor's model name on Linux, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timing_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Format one row per contestant, with memory if it was measured.

    Args:
        results: from `run.time_cases`.
    """
    header = ["contestant", "median s", "range s", "time / first"]
    rows = [
        [
            str(result["name"]),
            f"{result['median']:.3f}",
            f"{result['minimum']:.3f} to {result['maximum']:.3f}",
            f"{result['ratio']:.2f}",
        ]
        for result in results
    ]
    if any("memory" in result for result in results):
        header += ["peak GiB", "above start", "kept for backward"]
        for row, result in zip(rows, results):
            memory = result["memory"]
            row += [
                f"{memory[key] / GIGA:.2f}" if memory[key] else "-"
                for key in ("peak", "above", "saved")
            ]
    return markdown_table(header, rows)


def loading_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Format one row per loader."""
    header = ("contestant", "images / s", "median s", "range s", "time / first")
    rows = [
        [
            str(result["name"]),
            f"{result['images_per_second']:.1f}",
            f"{result['median']:.3f}",
            f"{result['minimum']:.3f} to {result['maximum']:.3f}",
            f"{result['ratio']:.2f}",
        ]
        for result in results
    ]
    return markdown_table(header, rows)


def scale_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Format median seconds, one row per point and one column per contestant."""
    names = [str(result["name"]) for result in points[0]["results"]]
    rows = [
        [
            str(point["axis"]),
            str(point["value"]),
            *(f"{result['median']:.3f}" for result in point["results"]),
        ]
        for point in points
    ]
    return markdown_table(("axis", "value", *(f"{name}, s" for name in names)), rows)


def profile_table(profile: Mapping[str, Any]) -> str:
    """Format the parts and phases of a contestant and its slowest operators.

    Args:
        profile: fields of `profiling.Profile`.
    """
    seconds = {**profile["forward"], **profile["phases"]}
    whole = sum(seconds.values())
    rows = [[name, milliseconds(x), percent(x / whole)] for name, x in seconds.items()]
    operators = [
        [x.name, str(x.calls), milliseconds(x.seconds), percent(x.share)]
        for x in profile["operators"]
    ]
    return "\n\n".join(
        [
            markdown_table(("part", "ms", "share"), rows),
            markdown_table(("operator", "calls", "ms, profiled", "share"), operators),
        ]
    )


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
