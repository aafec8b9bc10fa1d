#!/usr/bin/env python
"""Detect objects in images, videos or a camera stream; draw them and write COCO results.

Without options it runs the small digit detector shipped with the package on its example image.

Exit code: 0; 2 if nothing could be done, with one sentence on stderr, or if an image could not be
read. The other images are processed all the same, and those that failed are listed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from posixpath import normpath
from typing import Any, NamedTuple

# OpenCV and its FFmpeg print messages of their own when a video or camera cannot be opened.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

try:
    # Before Detectron2, whose import warns unless samdetr has set its filters.
    from samdetr import Predictor  # isort: skip
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.structures import Instances
    from detectron2.utils.video_visualizer import VideoVisualizer
    from PIL import Image
    from tqdm import tqdm

    from samdetr.data import example_image
    from samdetr.data.coco import read_coco
    from samdetr.data.own import read_sources, recognise
    from samdetr.engine import add_trust_option
    from samdetr.errors import EXIT_CODE, InputError, check_writable, refusing
    from samdetr.predictor import IMAGE_SUFFIXES, Prediction, image_files
    from samdetr.video import VIDEO_SUFFIXES, VideoReader, VideoWindow, VideoWriter, is_video
    from samdetr.visualize import DRAWN_WIDTH, draw_detections, labels_as_text
except ModuleNotFoundError as error:
    if error.name not in ("samdetr", "detectron2"):
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
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")  # formats in which drawings are written


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
        help="images, videos, folders, with those below, and patterns (default: an example)",
    )
    source.add_argument(
        "--webcam",
        type=int,
        nargs="?",
        const=0,
        metavar="NUMBER",
        help="camera (default: 0); stop with Escape in its window or with Ctrl-C",
    )
    add(
        "--output",
        type=Path,
        metavar="PATH",
        help="folder for drawings, with folders like those of the input, or a file if there is one "
        "input (default: output/detections; a window for a camera; no drawings with --json alone)",
    )
    add("--json", type=Path, metavar="FILE", help="write detections as COCO results")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file, or data as for train_net.py --data, with ids of images, matched by the "
        "longest end of their path, and of categories (default: 1, 2, 3, ... and the model's)",
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
    model("--dtype", default="float32", help="float16, bfloat16 or float64 (default: float32)")
    model("--batch-size", type=int, default=1, help="images per forward pass (default: 1)")
    add_trust_option(parser)
    model("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides")
    return parser


class Plan(NamedTuple):
    """Inputs and outputs of a run."""

    images: dict[Path, Any]  # image files and their ids in the results
    videos: Sequence[tuple[VideoReader, VideoWriter | VideoWindow | None]]
    targets: dict[Path, Path]  # file of the drawing of each input; empty if nothing is drawn
    category_ids: dict[str, Any] | None  # by class name, from --annotations


def make_plan(options: argparse.Namespace) -> Plan:
    """Resolve inputs and outputs; raise InputError or OSError if one of them cannot be used."""
    plan = _plan_files(options) if options.webcam is None else _plan_camera(options)
    for path in (*plan.targets.values(), *filter(None, [options.json])):
        check_writable(path)
    return plan


def _plan_files(options: argparse.Namespace) -> Plan:
    output = options.output or (None if options.json else OUTPUT)
    # Drawings of an earlier run may lie below the input.
    files = image_files(options.input, IMAGE_SUFFIXES + VIDEO_SUFFIXES, [output] if output else [])
    images = [x for x in files if not is_video(x)]
    if options.annotations and len(images) < len(files):
        raise InputError(f"{options.annotations} has no frames of videos: omit one or the other")
    ids, category_ids = dict(zip(images, count(1))), None
    if options.annotations:
        ids, category_ids = read_annotations(options.annotations, images)
    folders = [x for x in map(Path, options.input) if x.is_dir()]
    targets = output_files(files, output, folders) if output else {}
    readers = [(x, VideoReader(x)) for x in files if is_video(x)]
    videos = [(y, VideoWriter(targets[x], y.rate) if targets else None) for x, y in readers]
    return Plan(ids, videos, targets, category_ids)


def _plan_camera(options: argparse.Namespace) -> Plan:
    reader = VideoReader(options.webcam)
    if options.output is None:
        return Plan({}, [(reader, VideoWindow())], {}, None)
    source = Path(f"camera{options.webcam}.mp4")
    targets = output_files([source], options.output, [])
    return Plan({}, [(reader, VideoWriter(targets[source], reader.rate))], targets, None)


def output_files(inputs: Sequence[Path], output: Path, folders: Sequence[Path]) -> dict[Path, Path]:
    """Return the file to which the drawing of each input is written; mirrors searched `folders`.

    Raises:
        InputError: if `output` is a file of another kind, or if a file would be overwritten.
    """
    if output.suffix.lower() in PICTURE_SUFFIXES + VIDEO_SUFFIXES and not output.is_dir():
        suffixes = VIDEO_SUFFIXES if is_video(inputs[0]) else PICTURE_SUFFIXES
        if len(inputs) > 1 or output.suffix.lower() not in suffixes:
            subject = f"{len(inputs)} inputs" if len(inputs) > 1 else str(inputs[0])
            raise InputError(f"{output} must be a folder or end in .mp4 or .png, as {subject} need")
        targets = {inputs[0]: output}
    else:
        targets = {x: _drawing(output / y) for x, y in zip(inputs, _names(inputs, folders))}
    taken = {x.resolve() for x in inputs}
    for target in targets.values():
        if target.resolve() in taken:
            raise InputError(f"{target} would be overwritten: choose another --output")
        taken.add(target.resolve())
    return targets


def _names(files: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Return paths relative to the folder that was searched, or to a common one if some equal."""
    roots = [next((x for x in folders if x in file.parents), file.parent) for file in files]
    names = [os.path.relpath(*pair) for pair in zip(files, roots)]
    if len(set(names)) < len(names):
        root = os.path.commonpath([os.path.abspath(x) for x in files])
        names = [os.path.relpath(x, root) for x in files]
    return names


def _drawing(file: Path) -> Path:
    if is_video(file):
        return file.with_suffix(".mp4")
    return file if file.suffix.lower() in PICTURE_SUFFIXES else Path(f"{file}.png")


def read_annotations(path: Path, images: Sequence[Path]) -> tuple[dict[Path, Any], dict[str, Any]]:
    """Return the ids of images, matched by the longest end of their path, and of categories.

    Raises:
        ConfigError, DataError: if the annotations cannot be read.
        InputError: if there is not exactly one entry for an image, or one for two images.
    """
    known, categories = annotated(path)
    entries = defaultdict(list)  # path and id, by every end of the path
    for name, number in known:
        ends = path_ends(name)
        for end in ends:
            entries[end].append((ends[0], number))
    owners: dict[Any, Path] = {}
    for image in images:
        end = next((x for x in path_ends(os.path.abspath(image)) if x in entries), "")
        fits = [x for x in entries[end] if x[0] == end] or entries[end]  # preferably all of it
        if len(fits) != 1:
            names = ", ".join(name for name, _ in fits) or "no image"
            raise InputError(f"{path} has {names} for {image}, expected one image")
        if (other := owners.setdefault(fits[0][1], image)) is not image:
            raise InputError(f"{path} has {fits[0][0]} for both {other} and {image}")
    return {image: number for number, image in owners.items()}, categories


def annotated(path: Path) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """Return the paths and ids of images, and category ids by name, of a COCO file or data set."""
    if path.is_dir() or path.suffix in (".yaml", ".yml", ".py"):
        parts = recognise(str(path))
        data = read_sources(parts.get("val") or parts["train"])
        images = [(x["file_name"], x["image_id"]) for x in data.records]
        return images, {name: number for number, name in data.names.items()}
    content = read_coco(str(path))
    images = [(str(x.get("file_name") or x.get("coco_url")), x["id"]) for x in content["images"]]
    return images, {x["name"]: x["id"] for x in content["categories"]}


def path_ends(path: str) -> list[str]:
    """Return the ends of a path of any system, the longest first: "a\\b" gives "a/b" and "b"."""
    parts = normpath(path.replace("\\", "/")).split("/")
    return ["/".join(parts[index:]) for index in range(len(parts))]


class Run:
    """A predictor applied to a plan.

    Attributes:
        images: number of images and frames so far.
        results: detections so far, in COCO's format, with `file_name` and the `frame` of a video.
        failures: the error of each image that could not be read.
    """

    def __init__(self, predictor: Predictor, plan: Plan):
        self.predictor = predictor
        self.plan = plan
        self.images = 0
        self.results: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._category_ids = self._categories()

    def _categories(self) -> dict[int, Any]:
        """Map class indices to the category ids of the annotations, else of the data set."""
        classes, known = self.predictor.metadata.get("thing_classes"), self.plan.category_ids
        if classes and known is not None:
            if missing := [x for x in classes if x not in known]:
                raise InputError(f"--annotations has no category {missing[0]!r}")
            return {index: known[name] for index, name in enumerate(classes)}
        ids = self.predictor.metadata.get("thing_dataset_id_to_contiguous_id") or {}
        return {index: category for category, index in ids.items()}

    def detect(self) -> None:
        """Process images, then videos."""
        self._detect_images()
        numbers = count(len(self.plan.images) + 1)
        for reader, sink in self.plan.videos:
            self._detect_video(reader, sink, numbers)

    def _detect_images(self) -> None:
        files = tqdm(self.plan.images, unit="image", disable=not self.plan.images)
        failed = self.failures.append
        for found in self.predictor.stream(files, lambda _, error: failed(str(error))):
            file = found.source
            self._add(found.instances, self.plan.images[file], file_name=str(file))
            if file in self.plan.targets:
                self._draw(found, self.plan.targets[file])

    def _draw(self, found: Prediction, path: Path) -> None:
        scale = max(1.0, DRAWN_WIDTH / max(found.image.shape[:2]))
        picture = draw_detections(found.image, found.instances, self.predictor.metadata, scale)
        Image.fromarray(picture).save(path, quality=95)

    def _detect_video(
        self, reader: VideoReader, sink: VideoWriter | VideoWindow | None, numbers: Iterator[int]
    ) -> None:
        painter = VideoVisualizer(self.predictor.metadata)
        frames = tqdm(reader, total=reader.count, unit="frame")
        try:
            for frame, found in enumerate(self.predictor.stream(frames), 1):
                self._add(found.instances, next(numbers), file_name=reader.name, frame=frame)
                if sink is None:
                    continue
                with labels_as_text():
                    drawn = painter.draw_instance_predictions(found.image, found.instances)
                if not sink.add(drawn.get_image()):
                    break
        except KeyboardInterrupt:  # Ctrl-C ends a recording, which is kept
            pass
        finally:
            if sink is not None:
                sink.close()

    def _add(self, instances: Instances, image_id: int, **source: str | int) -> None:
        self.images += 1
        for entry in instances_to_coco_json(instances, image_id):
            index = entry["category_id"]
            entry["category_id"] = self._category_ids.get(index, index)
            self.results.append({**entry, **source})


@refusing("demo.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_args(arguments)
    plan = make_plan(options)
    predictor = Predictor(
        options.config_file,
        options.checkpoint,
        options.device,
        options.threshold,
        options.batch_size,
        options.opts,
        options.trusted_config,
        options.dtype,
    )
    run = Run(predictor, plan)
    try:
        run.detect()
    finally:  # results so far are kept after an error or an interruption
        if options.json:
            options.json.write_text(json.dumps(run.results), encoding="utf-8")
    print(f"{len(run.results)} detections in {run.images} images")
    if run.failures:
        lines = [f"{parser.prog}: {len(run.failures)} images could not be read:", *run.failures]
        parser.exit(EXIT_CODE, "\n  ".join(lines) + "\n")


if __name__ == "__main__":
    main()
