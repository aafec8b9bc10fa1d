"""SAM-DETR as a Detectron2 model: images in, losses or detections out.

Paper: section 3, figure 1. SAM-DETR, SAM-DETR++, the DETR baseline and the peers are this class
with different parts, which `configs/` puts together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ..structures import Predictions, Targets
from .backbone import fold_frozen_norms, padding_constraints
from .decoder import Decoder, PredictionHead
from .encoder import DeformableAttention
from .layers import at_least, autocast, precision
from .neck import ChannelMapper
from .postprocessing import detections

INFERENCE_DTYPES = ("float32", "bfloat16", "float16")


class SAMDETR(nn.Module):
    """A backbone, a DETR-style encoder and a decoder with the Semantics Aligner.

    Args:
        backbone: any Detectron2 backbone; one with `pixel_mean` and `pixel_std` of its pretrained
            weights has them compared with those of the model, and a difference is logged.
        neck: from backbone maps to feature levels, fine to coarse.
        encoder: from feature levels to encoded feature levels.
        queries: from encoded feature levels to `Queries`.
        denoising: adds denoising queries to `Queries` in training.
        decoder: from queries and feature levels to the predictions of all layers.
        criterion: from predictions, targets and known targets to losses by name.
        num_classes: K, which must agree with the decoder's heads.
        num_queries: N, which must agree with `queries`.
        pixel_mean, pixel_std: per channel, 0 to 255; their number is that of the channels, C.
        input_format: order of three channels, "RGB" or "BGR", in which tools read images.
        detections_per_image: detections kept per image.
        inference_dtype: "float32", or "bfloat16" or "float16" for inference under autocast;
            positions, regions and boxes stay in float32.

    Raises:
        ValueError: if the parts do not fit together, or a value is out of range.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        neck: ChannelMapper,
        encoder: nn.Module,
        queries: nn.Module,
        denoising: nn.Module,
        decoder: Decoder,
        criterion: nn.Module,
        num_classes: int,
        num_queries: int,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        detections_per_image: int = 100,
        inference_dtype: str = "float32",
    ):
        super().__init__()
        at_least(1, num_classes=num_classes, num_queries=num_queries)
        at_least(1, detections_per_image=detections_per_image)
        if inference_dtype not in INFERENCE_DTYPES:
            raise ValueError(
                f"inference_dtype is {inference_dtype!r}, must be one of {INFERENCE_DTYPES}"
            )
        if input_format not in ("RGB", "BGR"):
            raise ValueError(f"input_format is {input_format!r}, must be RGB or BGR")
        if not (len(pixel_mean) == len(pixel_std) > 0 and min(pixel_std) > 0):
            raise ValueError(
                f"pixel_mean is {pixel_mean} and pixel_std {pixel_std}, must be as many numbers "
                "each, one per channel, with pixel_std above 0"
            )
        # Channels-last convolutions are faster on every device and give the same numbers.
        self.backbone = fold_frozen_norms(backbone).to(memory_format=torch.channels_last)
        self.neck = neck
        self.encoder = encoder
        self.queries = queries
        self.denoising = denoising
        self.decoder = decoder
        self.criterion = criterion
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.input_format = input_format
        self.detections_per_image = detections_per_image
        self.inference_dtype: torch.dtype = getattr(torch, inference_dtype)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(
                name, torch.tensor([*map(float, values)]).view(-1, 1, 1), persistent=False
            )
            expected = getattr(backbone, name, values)
            if max(abs(x - y) for x, y in zip(values, expected)) > 1:
                text = "model.%s is %s, but the pretrained weights of the backbone expect %s"
                logging.getLogger(__name__).warning(text, name, values, expected)
        self._check()

    def _check(self) -> None:
        """Raise ValueError unless the parts fit together."""
        available = {name: x.channels for name, x in self.backbone.output_shape().items()}
        for name, channels in self.neck.in_channels.items():
            if available.get(name) != channels:
                raise ValueError(
                    f"neck.in_channels asks for {channels} channels of {name!r}, "
                    f"the backbone gives {available}"
                )
        count = len(self.neck.projections)
        if not 0 <= min(self.decoder.levels) <= max(self.decoder.levels) < count:
            raise ValueError(
                f"decoder.levels is {self.decoder.levels}, but the neck gives {count} level(s), "
                "numbered from 0"
            )
        for part, key, value in (
            ("queries", "num_queries", self.num_queries),
            ("decoder", "num_classes", self.num_classes),
            ("denoising", "num_classes", self.num_classes),
            *(
                (name, "num_levels", count)
                for name, module in self.named_modules()
                if isinstance(module, DeformableAttention)
            ),
        ):
            found = getattr(self.get_submodule(part), key, value)
            if found != value:
                raise ValueError(f"{part}.{key} is {found}, but the rest of the model has {value}")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights of convolutions and linear layers, in which these compute."""
        return next(x.dtype for x in self.parameters() if x.dim() > 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAMDETR:
        """Convert all tensors, but only weights of convolutions and linear layers to 16 bits.

        Buffers, norms, reference boxes and heads stay in float32, as under autocast. Private, but
        the method in which `half`, `bfloat16` and `to` meet, and which torch's RNNs override too.
        """
        parts = self.queries, *(x for x in self.modules() if isinstance(x, PredictionHead))
        exact = [*self.buffers(), *(x for part in parts for x in part.parameters())]
        kept = {id(y) for x in exact for y in (x, x.grad)}

        def convert(x: Tensor) -> Tensor:
            y = fn(x)
            if y.dtype == x.dtype or x.dim() > 1 and id(x) not in kept:
                return y
            return x.to(y.device, precision(y.dtype))  # not y, which may be rounded

        return super()._apply(convert, recurse)

    def forward(
        self, batched_inputs: list[dict[str, Any]], step_counts: Sequence[int] | None = None
    ) -> Any:
        """Detectron2's interface of a detector.

        Args:
            batched_inputs: per image a dict with `image`, a (C, H, W) tensor of 0 to 255; in
                training `instances` with `gt_boxes` and `gt_classes`; for inference optionally
                `height` and `width`, the size that detections are scaled to.
            step_counts: number of boxes of each image of the step, by which its losses are
                normalised, if gradients of several batches are accumulated.

        Returns:
            In training the weighted losses by name, else per image `{"instances": Instances}`.
        """
        if self.training:
            return self.losses(batched_inputs, step_counts)
        return self.detect(batched_inputs)

    def losses(
        self, batched_inputs: list[dict[str, Any]], step_counts: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name, in evaluation without denoising; see `forward`."""
        targets = self.targets(batched_inputs)._replace(accumulated=step_counts)
        images, padding = self.batch(batched_inputs)
        # Denoising queries are random, which losses of a test set should not be.
        known_targets = targets if self.training else None
        predictions, known = self.predict(images.tensor, padding, known_targets)
        return self.criterion(predictions, targets, known)

    def detect(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return the detections of each image, computed in `inference_dtype`."""
        images, padding = self.batch(batched_inputs)
        with autocast(padding.device, self.inference_dtype):
            predictions, _ = self.predict(images.tensor, padding)
        sizes = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, images.image_sizes)
        ]
        count = self.detections_per_image
        found = detections(predictions, sizes, count, self.decoder.scores)
        return [{"instances": instances} for instances in found]

    def predict(
        self, images: Tensor, padding: Tensor, targets: Targets | None = None
    ) -> tuple[Predictions, Tensor | None]:
        """Return the predictions of all decoder layers, without post-processing.

        Args:
            images: (B, C, height, width), normalised.
            padding: (B, height, width) bool, True on pixels outside the image.
            targets: ground truth to make denoising queries from.

        Returns:
            The predictions, and the targets of the denoising queries as in `Queries.known`.
        """
        with autocast(images.device, self.dtype):
            pyramid = self.encoder(self.neck(self.backbone(images), padding))
            queries = self.denoising(self.queries(pyramid), targets)
            return self.decoder(queries, pyramid), queries.known

    def batch(self, batched_inputs: list[dict[str, Any]]) -> tuple[ImageList, Tensor]:
        """Normalise the images and pad them to a common size.

        Returns:
            The images and a (B, height, width) bool mask, True on padding.

        Raises:
            ValueError: if an image has another number of channels than `pixel_mean`.
        """
        for x in batched_inputs:
            if len(x["image"]) != len(self.pixel_mean):  # a single one would be broadcast
                raise ValueError(
                    f"{x.get('file_name', 'an image')} has {len(x['image'])} channels, but "
                    f"model.pixel_mean has {len(self.pixel_mean)}"
                )
        device = self.pixel_mean.device
        images = ImageList.from_tensors(
            [
                (x["image"].to(device, non_blocking=True) - self.pixel_mean) / self.pixel_std
                for x in batched_inputs
            ],
            padding_constraints=padding_constraints(self.backbone),
        )
        padding = torch.ones_like(images.tensor[:, 0], dtype=torch.bool)
        for mask, (height, width) in zip(padding, images.image_sizes):
            mask[:height, :width] = False
        return images, padding

    def targets(self, batched_inputs: list[dict[str, Any]]) -> Targets:
        """Return the ground truth of a batch, on the model's device.

        Raises:
            ValueError: if an image has no `instances`, or a class that the model does not have.
        """
        for x in batched_inputs:
            name = x.get("file_name", "an image")
            if "instances" not in x:
                raise ValueError(f"{name} has no 'instances', which training needs")
            classes = x["instances"].gt_classes
            unknown = classes[(classes < 0) | (classes >= self.num_classes)]
            if len(unknown):
                raise ValueError(
                    f"{name} has class {int(unknown[0])}, but the model has classes 0 to "
                    f"{self.num_classes - 1}; set model.num_classes"
                )
        instances = [x["instances"] for x in batched_inputs]
        targets = Targets.from_instances(instances, self.pixel_mean.device)
        return targets._replace(boxes=targets.boxes.to(self.pixel_mean.dtype))
