"""The bundled data set `mini`: handwritten digits on photographs, generated on first use.

The digits are the 1,797 samples of scikit-learn's `load_digits` (8x8 pixels), the backgrounds crops
of its two sample photographs; NOTICE names their authors. Training and validation share neither a
digit sample nor a region of a photograph. An image is a function of `(seed, split, index)`.

Importing this module registers `mini_train` and `mini_val` with Detectron2's catalogs and the
prefix `mini://` with its PathManager. The first access to a file generates the whole set, in COCO's
format, in the cache folder (about 30 MB and 10 s), once for all processes.

    $SAMDETR_CACHE, else $XDG_CACHE_HOME/samdetr, else ~/.cache/samdetr
        mini-<hash of the parameters>/train.json  val.json  train/000000.jpg ...  val/...

Units: pixels. Boxes are `x, y, width, height` with integer corners, tight around the ink.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock
from PIL import Image

from ..errors import SamdetrError

VERSION = 1  # increase it when rendering changes, so that cached sets are generated anew
NUM_CLASSES = 10
SPLITS = ("train", "val")

Split = Literal["train", "val"]

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_FIRST_VAL_SAMPLE = 1200  # samples are ordered by writer: most of the rest are by other writers
# Fractions of a photograph's width; the gap separates the crops of the two splits.
_PHOTO_REGION = {"train": (0.0, 0.62), "val": (0.64, 1.0)}
_PLACING_ATTEMPTS = 20
_COLOUR_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True)
class SceneParameters:
    """Appearance of the images.

    Args:
        size: height and width of the image.
        min_objects, max_objects: digits per image, uniform; crowded images may get fewer.
        min_height, max_height: height of a digit's ink, uniform in its logarithm.
        overlap: largest fraction of the smaller of two boxes that they may share.
        contrast: least difference between a digit and the mean of what it covers, in grey levels.
        noise: standard deviation of the pixel noise, in grey levels.
        seed: another seed gives other images of the same kind.

    Raises:
        SamdetrError: if a range is empty or digits do not fit into the image.
    """

    size: int = 96
    min_objects: int = 1
    max_objects: int = 4
    min_height: int = 20
    max_height: int = 56
    overlap: float = 0.1
    contrast: float = 80.0
    noise: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        counts = 0 <= self.min_objects <= self.max_objects
        if not counts or not 8 <= self.min_height <= self.max_height < self.size:
            raise SamdetrError(
                f"{self}: expected 0 <= min_objects <= max_objects and "
                "8 <= min_height <= max_height < size"
            )


class Sources(NamedTuple):
    """Glyphs (G, 8, 8) in 0..1, their labels (G,) and photographs (H, W, 3)."""

    glyphs: np.ndarray
    labels: np.ndarray
    photos: list[np.ndarray]


class Digit(NamedTuple):
    """Digit in an image: class, top left pixel and opacity (height, width) in 0..1."""

    label: int
    x: int
    y: int
    ink: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Box as `x, y, width, height`."""
        height, width = self.ink.shape
        return self.x, self.y, width, height


def load_sources() -> Sources:
    """Load the digits and photographs of scikit-learn.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits, load_sample_image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the mini data set is generated from images of scikit-learn, which is not installed: "
            "pip install scikit-learn, or install samdetr with its extra 'mini'"
        ) from error
    digits = load_digits()
    glyphs = digits.images.astype(np.float32) / digits.images.max()
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return Sources(glyphs, digits.target, photos)


def random_stream(parameters: SceneParameters, split: Split, index: int) -> np.random.Generator:
    """Return the random generator of one image, independent of all other images."""
    return np.random.default_rng([parameters.seed, SPLITS.index(split), index])


def render_scene(
    parameters: SceneParameters, sources: Sources, split: Split, index: int
) -> tuple[np.ndarray, list[Digit]]:
    """Render image `index` of a split.

    Returns:
        The image (size, size, 3), RGB uint8, and its digits in drawing order: later ones cover
        earlier ones.
    """
    random = random_stream(parameters, split, index)
    image = random_background(random, sources, split, parameters.size)
    digits: list[Digit] = []
    for _ in range(random.integers(parameters.min_objects, parameters.max_objects + 1)):
        digit = _place(random, parameters, sources, split, digits)
        if digit is not None:
            draw(image, digit, random, parameters.contrast)
            digits.append(digit)
    image += random.normal(0, parameters.noise, image.shape)
    return image.clip(0, 255).astype(np.uint8), digits


def random_background(
    random: np.random.Generator, sources: Sources, split: Split, size: int
) -> np.ndarray:
    """Return a random crop of a photograph with random mirroring, contrast and brightness:
    (size, size, 3) float32 in 0..255.
    """
    photo = sources.photos[random.integers(len(sources.photos))]
    height, width = photo.shape[:2]
    left, right = (int(width * fraction) for fraction in _PHOTO_REGION[split])
    largest = min(height, right - left)
    side = int(random.uniform(min(0.75 * size, largest), min(1.7 * size, largest)))
    x = random.integers(left, right - side + 1)
    y = random.integers(0, height - side + 1)
    crop = Image.fromarray(photo[y : y + side, x : x + side])
    crop = crop.resize((size, size), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(crop, np.float32)
    gain, shift = np.float32(random.uniform(0.6, 1.0)), np.float32(random.uniform(-25, 25))
    return ((pixels - 128) * gain + 128 + shift).clip(0, 255)


def ink_of(glyph: np.ndarray, height: float) -> np.ndarray:
    """Scale a glyph (8, 8) to opacities (about `height`, width), with ink in all border lines."""
    padded = np.pad(glyph, 1)
    rows = np.flatnonzero((padded > 0.25).any(1))
    scale = height / (rows[-1] - rows[0] + 1)
    side = max(8, round(len(padded) * scale))
    grey = Image.fromarray((padded * 255).astype(np.uint8))
    grey = grey.resize((side, side), Image.Resampling.BICUBIC)
    # A steep ramp instead of a threshold avoids jagged edges.
    opacity = ((np.asarray(grey, np.float32) / 255 - 0.40) / 0.25).clip(0, 1)
    inked = opacity > 0.5
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw(image: np.ndarray, digit: Digit, random: np.random.Generator, contrast: float) -> None:
    """Draw a digit onto a float image (H, W, 3) in place, in a colour of enough contrast."""
    x, y, width, height = digit.box
    covered = image[y : y + height, x : x + width]
    colour = _random_colour(random, covered, contrast)
    opacity = digit.ink[..., None]
    image[y : y + height, x : x + width] = covered * (1 - opacity) + colour * opacity


def _random_colour(random: np.random.Generator, covered: np.ndarray, contrast: float) -> np.ndarray:
    mean = float((covered @ _LUMINANCE).mean())
    for _ in range(_COLOUR_ATTEMPTS):
        colour = random.uniform(0, 255, 3).astype(np.float32)
        if abs(float(colour @ _LUMINANCE) - mean) >= contrast:
            return colour
    return np.full(3, 255 if mean < 128 else 0, np.float32)


def _place(
    random: np.random.Generator,
    parameters: SceneParameters,
    sources: Sources,
    split: Split,
    placed: list[Digit],
) -> Digit | None:
    """Return a random digit that hardly overlaps those already placed, None if none fits."""
    end = len(sources.labels)
    samples = (0, _FIRST_VAL_SAMPLE) if split == "train" else (_FIRST_VAL_SAMPLE, end)
    heights = np.log(parameters.min_height), np.log(parameters.max_height)
    for _ in range(_PLACING_ATTEMPTS):
        glyph = random.integers(*samples)
        ink = ink_of(sources.glyphs[glyph], float(np.exp(random.uniform(*heights))))
        free_y, free_x = parameters.size - ink.shape[0], parameters.size - ink.shape[1]
        if min(free_x, free_y) < 0:
            continue
        x, y = int(random.integers(free_x + 1)), int(random.integers(free_y + 1))
        digit = Digit(int(sources.labels[glyph]), x, y, ink)
        if all(shared_part(digit, other) <= parameters.overlap for other in placed):
            return digit
    return None


def shared_part(one: Digit, other: Digit) -> float:
    """Return the intersection of two boxes as a fraction of the smaller one, 0..1."""
    ax, ay, a_width, a_height = one.box
    bx, by, b_width, b_height = other.box
    width = min(ax + a_width, bx + b_width) - max(ax, bx)
    height = min(ay + a_height, by + b_height) - max(ay, by)
    return max(width, 0) * max(height, 0) / min(a_width * a_height, b_width * b_height)


MINI_PARAMETERS = SceneParameters()
MINI_COUNTS: dict[Split, int] = {"train": 4000, "val": 500}
MINI_CLASSES = [str(digit) for digit in range(NUM_CLASSES)]

_JPEG_QUALITY = 90
_INFO = {
    "description": "Handwritten digits on photographs",
    "digits": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, CC BY 4.0",
    "photographs": "china.jpg by danielbuechele, flower.jpg by vultilion, CC BY 2.0",
}


def cache_folder() -> Path:
    """Return the folder of generated files: `$SAMDETR_CACHE` or one in the user's cache."""
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SAMDETR_CACHE") or f"{parent}/samdetr").expanduser()


def mini_folder(
    parameters: SceneParameters = MINI_PARAMETERS, counts: Mapping[Split, int] = MINI_COUNTS
) -> Path:
    """Return the folder of a generated set, and generate it if it does not exist.

    Of several processes one generates and the others wait. The folder is renamed once it is
    complete, so that what a killed process left behind is never used.

    Raises:
        OSError: if the cache folder cannot be written; names it and SAMDETR_CACHE.
        ModuleNotFoundError: if scikit-learn, the source of the images, is not installed.
    """
    described = json.dumps([VERSION, _JPEG_QUALITY, dataclasses.asdict(parameters), dict(counts)])
    folder = cache_folder() / f"mini-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        with file_lock(str(folder)):
            if not folder.is_dir():
                logging.getLogger(__name__).info("Generating the mini data set in %s", folder)
                unfinished = folder.with_name(folder.name + ".partial")
                shutil.rmtree(unfinished, ignore_errors=True)
                write_mini(unfinished, parameters, counts)
                os.replace(unfinished, folder)
    except OSError as error:
        raise OSError(
            f"cannot generate the mini data set in {folder}: {error}. "
            "Set SAMDETR_CACHE to a folder that can be written."
        ) from error
    return folder


def write_mini(folder: Path, parameters: SceneParameters, counts: Mapping[Split, int]) -> None:
    """Write `<split>/*.jpg` and `<split>.json` (COCO's format) of every split into a folder."""
    sources = load_sources()
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for index in range(count):
            image, digits = render_scene(parameters, sources, split, index)
            name, number = f"{index:06d}.jpg", index + 1
            Image.fromarray(image).save(folder / split / name, quality=_JPEG_QUALITY)
            size = {"width": parameters.size, "height": parameters.size}
            images.append({"id": number, "file_name": name, **size})
            for digit in digits:
                box = {"bbox": list(digit.box), "area": digit.ink.size, "iscrowd": 0}
                row = {"image_id": number, "category_id": digit.label + 1, **box}
                annotations.append({"id": len(annotations) + 1, **row})
        contents = {
            "info": {**_INFO, "parameters": dataclasses.asdict(parameters)},
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(MINI_CLASSES)],
            "images": images,
            "annotations": annotations,
        }
        (folder / f"{split}.json").write_text(json.dumps(contents))


class MiniHandler(PathHandler):
    """Path handler of `mini://val.json` and the like, which generates the set on first use."""

    PREFIX = "mini://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(mini_folder() / path.removeprefix(self.PREFIX))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)


def _load(split: Split) -> list[dict[str, Any]]:
    place = f"{mini_folder()}/{split}"
    return load_coco_json(f"{place}.json", place, f"mini_{split}")


PathManager.register_handler(MiniHandler())
for _split in MINI_COUNTS:
    DatasetCatalog.register(f"mini_{_split}", partial(_load, _split))
    # A `mini://` address, because SAMDETR_CACHE may change between import and use and the evaluator
    # may read the file before any loader has generated it.
    MetadataCatalog.get(f"mini_{_split}").set(
        json_file=f"{MiniHandler.PREFIX}{_split}.json",
        image_root=f"{MiniHandler.PREFIX}{_split}",
        evaluator_type="coco",
        thing_classes=MINI_CLASSES,
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(NUM_CLASSES)},
    )
