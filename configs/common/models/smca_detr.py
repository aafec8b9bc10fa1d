"""SMCA-DETR with a ResNet-50 at stride 32: one feature level, and no Semantics Aligner."""

from detectron2.config import LazyCall as L

from samdetr.modeling import (
    AnchoredDecoder,
    AnchoredPredictionHead,
    AnchoredQueryPosition,
    GaussianPrior,
    HeadAligner,
)

from .detr import model

model.decoder._target_ = AnchoredDecoder
model.decoder.layer.aligner = L(HeadAligner)(dim="${model.neck.dim}", num_heads=8)
model.decoder.layer.cross_attention.prior = L(GaussianPrior)(
    descriptor_dim="${model.neck.dim}", num_points=8
)
model.decoder.head._target_ = AnchoredPredictionHead
model.decoder.position._target_ = AnchoredQueryPosition
model.decoder.position.num_layers = 3
