"""Deformable DETR (table 1): four feature scales, all of which every layer of the decoder reads."""

from detectron2.config import LazyCall as L

from samdetr.modeling import (
    BoxAligner,
    DeformableCrossAttention,
    DeformableDecoder,
    DeformableSelfAttention,
    DETRSelfAttention,
    ExtraLevelMapper,
    LearnedContent,
    LearnedQueryPosition,
    PointPredictionHead,
)

from .sam_detr import model

model.backbone.out_features = ["res3", "res4", "res5"]
model.neck._target_ = ExtraLevelMapper
model.neck.in_channels = dict(res3=512, res4=1024, res5=2048)
model.encoder.layer.attention = L(DeformableSelfAttention)(
    dim="${model.neck.dim}",
    num_heads=8,
    num_levels=4,
    num_points=4,
    dropout="${model.encoder.layer.dropout}",
)
model.encoder.layer.hidden_dim = 1024
model.queries._target_ = LearnedContent
model.decoder.layer.self_attention._target_ = DETRSelfAttention
model.decoder.layer.aligner = L(BoxAligner)()
model.decoder.layer.cross_attention = L(DeformableCrossAttention)(
    dim="${model.neck.dim}",
    num_heads=8,
    num_levels=4,
    num_points=4,
    dropout="${model.encoder.layer.dropout}",
)
model.decoder.layer.hidden_dim = 1024
model.decoder = L(DeformableDecoder)(
    layer=model.decoder.layer,
    head=L(PointPredictionHead)(dim="${model.neck.dim}", num_classes="${model.num_classes}"),
    position=L(LearnedQueryPosition)(num_queries="${model.num_queries}", dim="${model.neck.dim}"),
    dim="${model.neck.dim}",
    num_layers=6,
)
