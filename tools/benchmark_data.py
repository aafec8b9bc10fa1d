#!/usr/bin/env python
"""Time and memory of reading a COCO file, ours beside Detectron2's `load_coco_json`.

Generates a file of COCO's size, 118,000 images with 860,000 boxes, and reads it by each in turn,
every time in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from argument_types import integer
from samdetr.errors import refusing

READERS = ("detectron2", "samdetr")
CLASSES = 80


def write(folder: Path, images: int, boxes: int) -> None:
    """Write `boxes.json` and empty image files; boxes are spread evenly over 640 x 480 pixels."""
    (folder / "images").mkdir()
    names = [f"{number:012}.jpg" for number in range(1, images + 1)]
    for name in names:
        (folder / "images" / name).touch()
    draw = random.Random(0)
    annotations = []
    for number in range(1, boxes + 1):
        width, height = draw.uniform(5, 300), draw.uniform(5, 300)
        box = [draw.uniform(0, 640 - width), draw.uniform(0, 480 - height), width, height]
        annotations.append(
            {
                "id": number,
                "image_id": draw.randint(1, images),
                "category_id": draw.randint(1, CLASSES),
                "bbox": [round(side, 2) for side in box],
                "area": round(width * height * 0.7, 2),
                "iscrowd": 0,
            }
        )
    contents = {
        "images": [
            {"id": number, "file_name": name, "width": 640, "height": 480}
            for number, name in enumerate(names, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)],
    }
    (folder / "boxes.json").write_text(json.dumps(contents))


def read(reader: str, folder: str) -> None:
    """Read the file, and print seconds and the MB by which the process has grown at most."""
    from detectron2.data.datasets import load_coco_json, register_coco_instances

    from samdetr.data import load_detection_dataset

    arguments = f"{folder}/boxes.json", f"{folder}/images"
    register_coco_instances("boxes", {}, *arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if reader == "samdetr":
        records = load_detection_dataset("boxes", num_classes=CLASSES)
    else:
        records = load_coco_json(*arguments, "boxes")
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([seconds, grown / 1000, sum(len(x["annotations"]) for x in records)]))


@refusing("benchmark_data.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=integer(1), default=118_000, help="default: 118000")
    parser.add_argument("--boxes", type=integer(1), default=860_000, help="default: 860000")
    parser.add_argument("--rounds", type=integer(1), default=3, help="default: 3")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step and options.step[0] == "write":
        return write(Path(options.step[1]), options.images, options.boxes)
    if options.step:
        return read(*options.step)
    sizes = ["--images", str(options.images), "--boxes", str(options.boxes)]
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: the peak of a process counts in those that it starts.
        subprocess.run([sys.executable, __file__, *sizes, "--step", "write", folder], check=True)
        for _ in range(options.rounds):
            seconds, memory = [], []
            for reader in READERS:
                command = [sys.executable, __file__, "--step", reader, folder]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row = json.loads(output.stdout.splitlines()[-1])
                seconds.append(row[0])
                memory.append(row[1])
                print(f"{reader:10} {row[0]:6.1f} s {row[1]:6.0f} MB {row[2]:8,} boxes")
            ratios = seconds[1] / seconds[0], memory[1] / max(memory[0], 1)
            print(f"{'ratio':10} {ratios[0]:6.2f}   {ratios[1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
