"""Conditional DETR with a ResNet-50 at stride 32."""

from detectron2.config import LazyCall as L

from samdetr.modeling import (
    AnchoredPredictionHead,
    ConditionalCrossAttention,
    ConditionalDecoder,
    ConditionalQueryPosition,
    ConditionalSelfAttention,
    LocatedCrossAttention,
    PaddingPrior,
)

from .detr import model

model.decoder._target_ = ConditionalDecoder
model.decoder.dim = "${model.neck.dim}"
model.decoder.layer.self_attention._target_ = ConditionalSelfAttention
model.decoder.layer.cross_attention._target_ = ConditionalCrossAttention
model.decoder.first_cross_attention = L(LocatedCrossAttention)(
    dim="${model.neck.dim}",
    num_heads=8,
    prior=L(PaddingPrior)(),
    dropout="${model.encoder.layer.dropout}",
)
model.decoder.head._target_ = AnchoredPredictionHead
model.decoder.position._target_ = ConditionalQueryPosition
