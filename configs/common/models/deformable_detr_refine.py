"""Deformable DETR with iterative box refinement: from the second layer on queries have boxes."""

from detectron2.config import LazyCall as L

from samdetr.modeling import (
    BoxDeformableCrossAttention,
    RefiningPredictionHead,
)

from .deformable_detr import model

model.decoder.first_layer = model.decoder.layer.copy()
model.decoder.layer.cross_attention._target_ = BoxDeformableCrossAttention
model.decoder.head._target_ = RefiningPredictionHead
