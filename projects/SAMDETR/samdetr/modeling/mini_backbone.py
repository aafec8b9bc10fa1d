"""A ResNet of one million parameters, the backbone of the models in `configs/mini`.

It is Detectron2's ResNet with basic blocks. Most of its capacity is in res3 (stride 8), the only
level a single-scale mini model reads: three blocks there see 115 pixels, more than a whole image.
The slim res4 and res5 (strides 16 and 32) are for multi-scale models.
"""

from collections.abc import Sequence

from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

STEM_CHANNELS = 32
STAGES = {"res2": (1, 32), "res3": (3, 96), "res4": (1, 104), "res5": (1, 120)}
"""Blocks and channels of every stage."""


def mini_resnet(
    out_features: Sequence[str] = ("res3",), norm: str = "FrozenBN", freeze_at: int = 0
) -> ResNet:
    """Builds the backbone; `samdetr.data.mini_backbone_weights()` is the file of its weights.

    The weights expect RGB, normalised with ImageNet's mean and standard deviation.

    Args:
        out_features: stages to return, of res2 to res5; later ones than needed are not built.
        norm: normalisation by its name in Detectron2; "FrozenBN" keeps the statistics of the
            pretraining, "BN" trains them.
        freeze_at: stages to freeze from the input on: 1 the stem, 2 also res2, and so on.
    """
    unknown = set(out_features) - set(STAGES)
    if unknown or not out_features:
        raise ValueError(f"out_features is {[*out_features]}: expected some of {list(STAGES)}")
    stages, channels = [], STEM_CHANNELS
    for name, (blocks, width) in STAGES.items():
        first_stride = 1 if name == "res2" else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=[first_stride] + [1] * (blocks - 1),
                in_channels=channels,
                out_channels=width,
                norm=norm,
            )
        )
        channels = width
    stem = BasicStem(in_channels=3, out_channels=STEM_CHANNELS, norm=norm)
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=freeze_at)
