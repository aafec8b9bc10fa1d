"""The baseline of the paper: the original DETR, with 300 queries and the focal loss."""

from detectron2.config import LazyCall as L

from samdetr.modeling import (
    CentredReference,
    DETRCrossAttention,
    DETRPredictionHead,
    DETRSelfAttention,
    LearnedQueryPosition,
    NoAligner,
)

from .sam_detr import model

model.neck.norm = ""
model.neck.position.offset = 0.0
model.queries._target_ = CentredReference
model.decoder.layer.self_attention._target_ = DETRSelfAttention
model.decoder.layer.aligner = L(NoAligner)()
model.decoder.layer.cross_attention._target_ = DETRCrossAttention
model.decoder.head._target_ = DETRPredictionHead
model.decoder.position = L(LearnedQueryPosition)(
    num_queries="${model.num_queries}", dim="${model.neck.dim}"
)
