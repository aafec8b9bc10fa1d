#!/usr/bin/env python
"""Detect objects with a file of tools/export_model.py, by ONNX Runtime and without PyTorch.

It needs numpy, Pillow and onnxruntime, and nothing of this project but itself. Prints a line for
each detection: image, class, score and the corners x0 y0 x1 y1 in pixels of the image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageOps
except ImportError as error:
    print(f"onnx_demo.py needs {error.name}: pip install numpy Pillow onnxruntime", file=sys.stderr)
    sys.exit(2)

DESCRIPTION = "samdetr.json"  # of the file, in its metadata


class Detection(NamedTuple):
    """One object."""

    name: str  # of the class
    score: float
    box: list[float]  # x0, y0, x1, y1 in pixels


class Detector:
    """An exported file.

    Args:
        path: the file.

    Raises:
        ValueError: if it is not there, no model of ONNX, or not one of tools/export_model.py.
    """

    def __init__(self, path: str):
        if not Path(path).is_file():
            raise ValueError(f"{path} is not a file")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # the errors of ONNX Runtime have no common class
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} cannot be read as a model of ONNX: {reason}") from error
        properties = self.session.get_modelmeta().custom_metadata_map
        if DESCRIPTION not in properties:
            raise ValueError(f"{path} has no {DESCRIPTION}: it is not of tools/export_model.py")
        self.description: dict[str, Any] = json.loads(properties[DESCRIPTION])

    def __call__(self, picture: Image.Image, threshold: float) -> list[Detection]:
        """Detections in a picture from a score on, the best first."""
        pixels = np.asarray(self.resize(picture.convert("RGB")))
        if self.description["input_format"] == "BGR":
            pixels = pixels[..., ::-1]
        boxes, scores, classes = self.best(*self.session.run(None, self.inputs(pixels)))
        names = self.description["classes"]
        return [
            Detection(
                names[kind] if names else str(kind),
                float(score),
                (box * [*picture.size, *picture.size]).tolist(),
            )
            for box, score, kind in zip(boxes, scores, classes)
            if score >= threshold
        ]

    def resize(self, picture: Image.Image) -> Image.Image:
        """As the images that the model is tested on: by the short edge, up to a longest one."""
        if self.description["resize"] is None:
            return picture
        short_edge, max_size = (self.description["resize"][x] for x in ("short_edge", "max_size"))
        scale = short_edge / min(picture.size)
        scale = min(scale, max_size / max(picture.size))
        width, height = (max(1, int(x * scale + 0.5)) for x in picture.size)
        return picture.resize((width, height), Image.Resampling.BILINEAR)

    def inputs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the graph for (height, width, 3) pixels."""
        height, width = pixels.shape[:2]
        images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        if self.description["preprocessing"] == "inside":
            return {"images": images, "sizes": np.array([[height, width]])}
        mean, std = (
            np.array(self.description[x], np.float32)[:, None, None]
            for x in ("pixel_mean", "pixel_std")
        )
        divisor = max(1, self.description["size_divisibility"])
        beyond = [(0, -height % divisor), (0, -width % divisor)]
        images = np.pad((images - mean) / std, [(0, 0), (0, 0), *beyond])
        padding = np.pad(np.zeros((height, width), bool), beyond, constant_values=True)
        return {"images": images, "padding": padding[None]}

    def best(self, boxes: np.ndarray, scores: np.ndarray, *classes: np.ndarray) -> Any:
        """Boxes, scores and classes of the detections of the one image."""
        if self.description["top_k"] == "inside":
            return boxes[0], scores[0], classes[0][0]
        flat = scores[0].ravel()
        order = np.argsort(-flat, kind="stable")[: self.description["detections_per_image"]]
        query, kind = np.divmod(order, scores.shape[-1])
        return boxes[0, query], flat[order], kind


def detect(detector: Detector, files: list[str], threshold: float) -> Iterator[str]:
    """Print what is in the files; yields one sentence for each that cannot be read."""
    for file in files:
        try:
            with Image.open(file) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except Exception as error:  # broken files make Pillow raise errors of many types
            yield f"cannot read image {file}: {error}"
            continue
        for name, score, box in detector(upright, threshold):
            print(f"{file} {name} {score:.3f} {' '.join(f'{x:.1f}' for x in box)}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a file of tools/export_model.py that ends in .onnx")
    parser.add_argument("images", nargs="+", help="images, or folders of images")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score (default: 0.5)")
    options = parser.parse_args(arguments)
    files = []
    for path in map(Path, options.images):
        files += sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]
    try:
        detector = Detector(options.model)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    problems = [*detect(detector, [*map(str, files)], options.threshold)]
    for problem in problems:
        print(f"{parser.prog}: {problem}", file=sys.stderr)
    if problems:
        sys.exit(2)


if __name__ == "__main__":
    main()
