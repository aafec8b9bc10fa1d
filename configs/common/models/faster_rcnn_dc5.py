"""Faster R-CNN on a ResNet-50-DC5, which Detectron2 has in its older, YAML form alone."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

# The region proposals of C4, on the dilated res5; the heads of FPN, on that one map.
model = model_zoo.get_config("common/models/mask_rcnn_c4.py").model
model.backbone.out_features = ["res5"]
model.backbone.stages = [
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=num_blocks,
        stride_per_block=[stride] + [1] * (num_blocks - 1),
        in_channels=in_channels,
        bottleneck_channels=channels,
        out_channels=4 * channels,
        dilation=dilation,
        stride_in_1x1=True,
        norm="FrozenBN",
    )
    for num_blocks, stride, in_channels, channels, dilation in (
        (3, 1, 64, 64, 1),
        (4, 2, 256, 128, 1),
        (6, 2, 512, 256, 1),
        (3, 1, 1024, 512, 2),
    )
]
model.proposal_generator.in_features = ["res5"]
model.proposal_generator.head.in_channels = 2048

model.roi_heads = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model.roi_heads
model.roi_heads.mask_in_features = model.roi_heads.mask_pooler = model.roi_heads.mask_head = None
model.roi_heads.box_in_features = ["res5"]
model.roi_heads.box_pooler.scales = [1 / 16]
model.roi_heads.box_head.input_shape = L(ShapeSpec)(channels=2048, height=7, width=7)
