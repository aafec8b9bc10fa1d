"""SAM-DETR++: three feature scales, which the decoder reads from coarse to fine (section 4.3)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import DeformableSelfAttention, MultiScaleMapper

from .sam_detr import model

model.backbone.out_features = ["res3", "res4", "res5"]
model.neck._target_ = MultiScaleMapper
model.neck.in_channels = dict(res3=512, res4=1024, res5=2048)
model.encoder.layer.attention = L(DeformableSelfAttention)(
    dim="${model.neck.dim}", num_heads=8, num_levels=3, num_points=4
)
model.encoder.layer.hidden_dim = 1024
model.decoder.levels = [2, 2, 1, 1, 0, 0]
