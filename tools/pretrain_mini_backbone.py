"""Pretrain the backbone of the mini models by classification, in place of ImageNet.

    python tools/pretrain_mini_backbone.py [--output FILE]

Crops of the training split contain one handwritten digit each. It is classified from the average of
res5 and, so that res3 alone is discriminative too, from the strongest cells of res3. Boxes and the
validation split are not used. The defaults write the file that the package ships, in about two
minutes on two free cores.

Shapes: B crops (B, 3, size, size), uint8 RGB; K = 10 classes.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samdetr.data import mini_backbone_weights
from samdetr.data.mini import NUM_CLASSES, SceneParameters, Split, load_sources, render_scene
from samdetr.errors import check_writable, refusing
from samdetr.modeling.backbone import STAGES, mini_resnet

TRAINING_OPTIONS = ("epochs", "batch_size", "learning_rate", "seed")
CROP_OPTIONS = ("size", "min_height", "max_height")
CROP = SceneParameters(size=64, max_objects=1)
"""A smaller image with one digit of the heights in `mini`."""

# ImageNet's, with which the detectors normalise too.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class PretrainingParameters:
    """Hyper-parameters of the pretraining.

    Args:
        epochs, batch_size, learning_rate, weight_decay: AdamW with one learning-rate cycle.
        warm_up: fraction of the cycle in which the learning rate rises.
        rotation: largest rotation of the jitter, in radians.
        stretch: largest relative change of width and height.
        lighting: largest relative change of each colour channel.
        seed: of the initial weights, the order of the crops and the jitter.
    """

    epochs: int = 7
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warm_up: float = 0.15
    rotation: float = 0.2
    stretch: float = 0.15
    lighting: float = 0.15
    seed: int = 0


class Crops(NamedTuple):
    """Images (B, 3, size, size), uint8 RGB, and the class of the digit in each (B,)."""

    images: Tensor
    labels: Tensor


class Logits(NamedTuple):
    """Class logits (B, K) from two stages of the backbone."""

    res3: Tensor
    res5: Tensor


class DigitClassifier(nn.Module):
    """The backbone with a classifier on res3 and one on res5."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, norm: str = "BN"):
        super().__init__()
        self.backbone = mini_resnet(out_features=("res3", "res5"), norm=norm)
        self.res3_head = nn.Conv2d(STAGES["res3"][1], NUM_CLASSES, kernel_size=1)
        self.res5_head = nn.Linear(STAGES["res5"][1], NUM_CLASSES)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), False)

    def forward(self, images: Tensor) -> Logits:
        features = self.backbone((images - self.pixel_mean) / self.pixel_std)
        # A soft maximum over the cells, so that the background does not dilute the digit.
        cells = self.res3_head(features["res3"]).flatten(2)  # (B, K, S)
        res3 = cells.logsumexp(-1) - math.log(cells.shape[-1])
        return Logits(res3, self.res5_head(features["res5"].mean((-2, -1))))


def digit_crops(scene: SceneParameters, split: Split, count: int) -> Crops:
    """Return the first `count` crops of a split."""
    sources = load_sources()
    images = np.empty((count, scene.size, scene.size, 3), np.uint8)
    labels = np.empty(count, np.int64)
    for index in range(count):
        images[index], (digit,) = render_scene(scene, sources, split, index)
        labels[index] = digit.label
    return Crops(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))


def jitter(images: Tensor, parameters: PretrainingParameters) -> Tensor:
    """Rotate, stretch and relight every image of a batch at random.

    Returns:
        (B, 3, size, size) float32 in 0..255.
    """
    angle = _symmetric((len(images),), parameters.rotation)
    scale = 1 + _symmetric((len(images), 2, 1), parameters.stretch)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
    affine = F.pad(scale * rotation.view(-1, 2, 2), (0, 1))  # (B, 2, 3), no shift
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    gain = 1 + _symmetric((len(images), 3, 1, 1), parameters.lighting)
    return (moved * gain).clamp(0, 255)


def _symmetric(shape: tuple[int, ...], limit: float) -> Tensor:
    return (2 * torch.rand(shape) - 1) * limit


def pretrain(
    crops: Crops,
    parameters: PretrainingParameters,
    report: Callable[[str], object] = print,
) -> DigitClassifier:
    """Train a classifier from random weights, repeatably on one machine and number of threads.

    Args:
        report: called with a line per epoch.
    """
    torch.manual_seed(parameters.seed)
    classifier = DigitClassifier().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        classifier.parameters(), weight_decay=parameters.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        parameters.learning_rate,
        epochs=parameters.epochs,
        steps_per_epoch=math.ceil(len(crops.labels) / parameters.batch_size),
        pct_start=parameters.warm_up,
    )
    for epoch in range(parameters.epochs):
        total = 0.0
        for chosen in torch.randperm(len(crops.labels)).split(parameters.batch_size):
            logits = classifier(jitter(crops.images[chosen], parameters))
            losses = [F.cross_entropy(depth, crops.labels[chosen]) for depth in logits]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
            total += losses[-1].item() * len(chosen)
        mean = total / len(crops.labels)
        report(f"epoch {epoch + 1} of {parameters.epochs}: loss at res5 {mean:.3f}")
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: DigitClassifier, crops: Crops, batch_size: int = 250) -> dict[str, float]:
    """Return the accuracy of each classifier: {"res3": 0..1, "res5": 0..1}."""
    batches = [classifier(images.float()) for images in crops.images.split(batch_size)]
    predicted = Logits(*(torch.cat(depth).argmax(-1) for depth in zip(*batches, strict=True)))
    return {
        name: (labels == crops.labels).float().mean().item()
        for name, labels in predicted._asdict().items()
    }


def save_backbone(classifier: DigitClassifier, path: Path) -> None:
    """Save the backbone for `DetectionCheckpointer(detector).load(path)`.

    Convolutions are stored in half precision; loading casts them back. The classifiers are saved
    under `heads`, so that the accuracy can be measured again.
    """
    backbone, heads = {}, {}
    for name, value in classifier.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # frozen batch norm has no such counter
        if value.dim() == 4:
            value = value.half().contiguous()
        if name.startswith("backbone."):
            backbone[name.removeprefix("backbone.")] = value
        else:
            heads[name] = value
    contents = {"model": backbone, "heads": heads}
    # The checkpointer's heuristics match `res2...` to `backbone.res2...`.
    torch.save({**contents, "matching_heuristics": True, "__author__": "samdetr"}, path)


def load_classifier(path: str | Path) -> DigitClassifier:
    """Load the classifier that `save_backbone` saved, in evaluation mode."""
    contents = torch.load(path, map_location="cpu", weights_only=True)
    classifier = DigitClassifier(norm="FrozenBN").eval()
    backbone = {f"backbone.{name}": value for name, value in contents["model"].items()}
    classifier.load_state_dict({**backbone, **contents["heads"]})
    return classifier


@refusing("pretrain_mini_backbone.py")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(mini_backbone_weights()))
    parser.add_argument("--crops", type=int, default=8000, help="images to train on (8000)")
    parser.add_argument("--held-out", type=int, default=2000, help="images to test on (2000)")
    for name in TRAINING_OPTIONS + CROP_OPTIONS:
        default = getattr(PretrainingParameters if name in TRAINING_OPTIONS else CROP, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(default), default=default, help=f"({default})")
    args = parser.parse_args(arguments)

    for name in ("crops", "held_out", "epochs", "batch_size"):
        if getattr(args, name) < 1:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is {getattr(args, name)}, must be 1 or more")
    parameters = PretrainingParameters(**{name: getattr(args, name) for name in TRAINING_OPTIONS})
    check_writable(args.output)
    crop = dataclasses.replace(CROP, **{name: getattr(args, name) for name in CROP_OPTIONS})
    classifier = pretrain(digit_crops(crop, "train", args.crops), parameters)
    save_backbone(classifier, args.output)
    measured = accuracy(load_classifier(args.output), digit_crops(crop, "val", args.held_out))
    print(f"{args.output}: held-out accuracy {measured['res3']:.1%} on res3, ", end="")
    print(f"{measured['res5']:.1%} on res5")


if __name__ == "__main__":
    main()
