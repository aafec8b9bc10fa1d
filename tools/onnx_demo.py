#!/usr/bin/env python
"""Detect objects with a file of tools/export_model.py, by ONNX Runtime and without PyTorch.

It needs numpy, Pillow and onnxruntime, and nothing of this project but itself. Prints a line for
each detection: image, class, score and the corners x0 y0 x1 y1 in pixels of the image.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
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
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def read(file: str, white: float | None) -> Image.Image:
    """Read an image upright and in RGB, as samdetr/data/images.py does.

    Args:
        file: the image.
        white: value that becomes 255; None for that of the full depth.
    """
    with open(file, "rb") as stream:  # Pillow garbles rotated TIFFs that it opens by name
        image = Image.open(stream)
        image.load()
        with suppress(Exception):  # a damaged EXIF block makes Pillow raise errors of many types
            ImageOps.exif_transpose(image, in_place=True)
        return as_rgb(image, white)


def as_rgb(image: Image.Image, white: float | None) -> Image.Image:
    """Convert an image of any mode to RGB, without its transparency."""
    deep = image.mode.startswith(("I", "F"))
    if not deep:  # palettes go by RGBA: Pillow warns of transparent ones
        image = image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")
    if not deep and (white is None or white >= 255):
        return image
    if white is None and image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown")
    white = float(white or 65535)
    levels = np.nan_to_num(np.asarray(image).clip(0, white)) * (256 / white)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


class Detection(NamedTuple):
    """One object."""

    category: int  # id in the data set that the model was trained on
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
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be read as a model of ONNX: {reason}") from error
        properties = self.session.get_modelmeta().custom_metadata_map
        if DESCRIPTION not in properties:
            raise ValueError(f"{path} has no {DESCRIPTION}: it is not of tools/export_model.py")
        self.description: dict[str, Any] = json.loads(properties[DESCRIPTION])
        if (channels := len(self.description["pixel_mean"])) != 3:
            raise ValueError(
                f"{path} takes images of {channels} channels, and only RGB is read here"
            )

    def __call__(self, picture: Image.Image, threshold: float) -> list[Detection]:
        """Detections in an RGB picture from a score on, the best first."""
        pixels = np.asarray(self.resize(picture))
        if self.description["input_format"] == "BGR":
            pixels = pixels[..., ::-1]
        boxes, scores, classes = self.best(*self.session.run(None, self.inputs(pixels)))
        names = self.description["classes"]
        ids = self.description.get("category_ids")  # absent in files of earlier versions
        return [
            Detection(
                ids[kind] if ids else int(kind),
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


def image_files(path: Path) -> list[Path]:
    """A file, or the images in a folder and those below it, except hidden ones."""
    if not path.is_dir():
        return [path]
    found = sorted(x for x in path.rglob("*") if x.suffix.lower() in SUFFIXES and x.is_file())
    return [x for x in found if not any(y.startswith(".") for y in x.relative_to(path).parts)]


def detect(
    detector: Detector, files: list[str], threshold: float, results: list[dict[str, Any]]
) -> Iterator[str]:
    """Print what is in the files; yields one sentence for each that cannot be read.

    Args:
        detector: the exported file.
        files: the images.
        threshold: lowest score.
        results: receives the detections in COCO's format, with numbers of files as ids of images.
    """
    for number, file in enumerate(files, 1):
        try:
            picture = read(file, detector.description.get("white"))
        except Exception as error:  # broken files make Pillow raise errors of many types
            yield f"cannot read image {file}: {error}"
            continue
        for category, name, score, box in detector(picture, threshold):
            print(f"{file} {name} {score:.3f} {' '.join(f'{x:.1f}' for x in box)}", flush=True)
            x0, y0, x1, y1 = box
            found = {"image_id": number, "category_id": category, "score": score}
            results.append({**found, "bbox": [x0, y0, x1 - x0, y1 - y0], "file_name": file})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a file of tools/export_model.py that ends in .onnx")
    parser.add_argument("images", nargs="+", help="images, or folders of images")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score (default: 0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write COCO results")
    options = parser.parse_args(arguments)
    files = [file for path in map(Path, options.images) for file in image_files(path)]
    try:
        detector = Detector(options.model)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    results: list[dict[str, Any]] = []
    problems = [*detect(detector, [*map(str, files)], options.threshold, results)]
    if options.json:
        options.json.write_text(json.dumps(results), encoding="utf-8")
    for problem in problems:
        print(f"{parser.prog}: {problem}", file=sys.stderr)
    if problems:
        sys.exit(2)


if __name__ == "__main__":
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the lines has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
