"""Results as markdown, and what they were measured with."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .flops import markdown_table

GIGA = 2**30


def machine(device: str) -> dict[str, Any]:
    """What a figure depends on beside the code."""
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
    """The processor's name where the system tells, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def timing_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each contestant, with memory where it was measured.

    Args:
        results: of `benchmark.run`.
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
    """A row for each loader."""
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
    """A row for each point, a column for each contestant; median seconds."""
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
    """Parts and phases of a contestant, and the operators that took the longest.

    Args:
        profile: the fields of `profiling.Profile`.
    """
    forward, phases, backward = (profile[key] for key in ("forward", "phases", "backward"))
    seconds = {**dict.fromkeys(backward, 0.0), **forward, **phases}
    whole = sum(seconds.values())
    rows = [
        [name, milliseconds(x), percent(x / whole), milliseconds(backward.get(name))]
        for name, x in seconds.items()
    ]
    operators = [
        [x.name, str(x.calls), milliseconds(x.seconds), percent(x.share)]
        for x in profile["operators"]
    ]
    return "\n\n".join(
        [
            markdown_table(("part", "ms", "share", "its backward, ms, profiled"), rows),
            markdown_table(("operator", "calls", "ms, profiled", "share"), operators),
        ]
    )


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
