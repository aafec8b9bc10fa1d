"""Backbones of timm, convolutional networks and vision transformers, behind Detectron2's interface.

Not in the paper. timm: https://github.com/huggingface/pytorch-image-models. A model that has only
one stride, such as a plain ViT, gets the pyramid of ViTDet: https://arxiv.org/abs/2203.16527.

Shapes: maps are (B, C, H, W). They are named as in Detectron2's feature pyramids: "p3" has stride
8, "p4" stride 16, in general `level_name(stride)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

from detectron2.modeling import Backbone, SimpleFeaturePyramid
from omegaconf import ListConfig
from torch import Tensor

from ..errors import MissingCheckpointError

PYRAMID_SCALES = (4.0, 2.0, 1.0, 0.5)  # of Detectron2's SimpleFeaturePyramid
# Arguments of timm that name files or repositories: a config of a stranger must not load pickles.
SOURCES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}


class TimmBackbone(Backbone):
    """A timm model with its maps at several strides.

    Layers that no map needs, such as the classifier, are removed: every parameter gets a gradient.
    The others keep timm's names, behind a prefix.

    Args:
        name: of timm's model, such as "convnext_tiny" or "vit_small_patch16_dinov3".
        out_features: names of the maps. Those of a ViT are among "p2" to "p5" for patches of 16
            pixels, and among "p2" to "p4" (strides 7, 14 and 28) for patches of 14.
        pretrained: whether timm downloads its weights, each time that the model is built;
            `train.init_checkpoint` reads a file or URL once, at the start of training.
        norm: "FrozenBN" to freeze batch norms, if there are any; "" to train them.
        pyramid_dim: channels of the maps of a model that has one stride.
        in_chans: channels of the images.
        settings: other arguments of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        ModuleNotFoundError: if timm is not installed.
        ValueError: if there is no such model or no such map.
        MissingCheckpointError: if the pretrained weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str] = ("p3", "p4", "p5"),
        pretrained: bool = False,
        norm: str = "FrozenBN",
        pyramid_dim: int = 256,
        in_chans: int = 3,
        **settings: Any,
    ):
        super().__init__()
        if norm not in ("FrozenBN", ""):
            raise ValueError(f"norm is {norm!r}, must be 'FrozenBN' or ''")
        if sources := SOURCES.intersection(settings):
            raise ValueError(f"{sources} is not accepted: set train.init_checkpoint to the file")
        lists = {key: [*x] for key, x in settings.items() if isinstance(x, ListConfig)}
        model = build_model(name, pretrained, {**settings, **lists, "in_chans": in_chans})
        self.pixel_mean = [255 * x for x in model.pretrained_cfg["mean"]]  # RGB, of the weights
        self.pixel_std = [255 * x for x in model.pretrained_cfg["std"]]
        self.net = build_maps(model, out_features, pyramid_dim)
        if norm == "FrozenBN":
            from timm.layers import freeze_batch_norm_2d

            freeze_batch_norm_2d(model)
        shapes = self.net.output_shape()
        self._out_features = [*shapes]
        self._out_feature_channels = {key: x.channels for key, x in shapes.items()}
        self._out_feature_strides = {key: x.stride for key, x in shapes.items()}
        strides = [model.feature_info[0]["reduction"], *self._out_feature_strides.values()]
        self._size_divisibility = math.lcm(*strides)

    @property
    def size_divisibility(self) -> int:
        """A multiple of all strides and of the patch size, so that no map leaves out pixels."""
        return self._size_divisibility

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, height, width) to maps by name, fine to coarse."""
        return self.net(images)


class TimmMaps(Backbone):
    """Maps of a timm model at its own strides.

    Args:
        model: timm model, whose unneeded layers are removed, in place.
        indices: of the maps in `model.feature_info`, by the name to give them.
        norm: whether the last norm of a transformer is applied to the maps.
    """

    def __init__(self, model: Any, indices: Mapping[str, int], norm: bool):
        super().__init__()
        infos = {name: model.feature_info[i] for name, i in indices.items()}
        self._out_features = [*indices]
        self._out_feature_channels = {name: x["num_chs"] for name, x in infos.items()}
        self._out_feature_strides = {name: x["reduction"] for name, x in infos.items()}
        self.indices = model.prune_intermediate_layers([*indices.values()], prune_norm=not norm)
        self.model = model
        self.norm = norm

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, height, width) to maps by name."""
        maps = self.model.forward_intermediates(
            images, self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return dict(zip(self._out_features, maps))


def level_name(stride: float) -> str:
    """Return the name of the map of a stride, as Detectron2's pyramids have it."""
    return f"p{int(math.log2(stride))}"


def build_model(name: str, pretrained: bool, settings: Mapping[str, Any]) -> Any:
    """Build a timm model without classifier for images of any size; see `TimmBackbone`."""
    try:
        import timm  # an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("TimmBackbone needs timm: pip install 'samdetr[timm]'") from error
    if not timm.is_model(name):
        nearest = ", ".join(get_close_matches(name, timm.list_models(), 3, 0.0))
        raise ValueError(f"name is {name!r}, which timm does not have; its nearest are {nearest}")
    make = partial(timm.create_model, name, pretrained, num_classes=0, **settings)
    try:
        try:
            return make(dynamic_img_size=True)  # of transformers
        except TypeError:  # others have no such argument
            return make()
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise MissingCheckpointError(
            f"timm cannot download the weights of {name} ({error}): set model.backbone.pretrained="
            "False and train.init_checkpoint to a file of them"
        ) from error


def build_maps(model: Any, out_features: Sequence[str], pyramid_dim: int) -> Backbone:
    """Return the maps of a timm model, or a simple feature pyramid if it has one stride."""
    own = {level_name(x["reduction"]): i for i, x in enumerate(model.feature_info)}
    if len(own) > 1:
        return TimmMaps(model, chosen(own, out_features), norm=False)
    net = TimmMaps(model, own, norm=True)
    ((name, shape),) = net.output_shape().items()
    scales = {level_name(shape.stride / x): x for x in PYRAMID_SCALES if shape.stride % x == 0}
    factors = [*chosen(scales, out_features).values()]
    return SimpleFeaturePyramid(net, name, pyramid_dim, factors)


def chosen(available: Mapping[str, Any], out_features: Sequence[str]) -> dict[str, Any]:
    """Return the items of `out_features`, in their order in `available`."""
    unknown = set(out_features).difference(available)
    if unknown or not out_features:
        raise ValueError(f"out_features is {[*out_features]}, must be some of {[*available]}")
    return {name: x for name, x in available.items() if name in out_features}
