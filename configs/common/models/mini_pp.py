"""A small SAM-DETR++: three feature scales, one decoder layer for each."""

from detectron2.config import LazyCall as L

from samdetr.modeling import DeformableSelfAttention, MultiScaleMapper

from .mini import model

model.backbone.out_features = ["res3", "res4", "res5"]
model.neck._target_ = MultiScaleMapper
model.neck.in_channels = dict(res3=96, res4=104, res5=120)
model.encoder.layer.attention = L(DeformableSelfAttention)(
    dim="${model.neck.dim}", num_heads=8, num_levels=3, num_points=4
)
model.decoder.levels = [2, 1, 0]
