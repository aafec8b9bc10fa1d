"""DAB-DETR with a ResNet-50-DC5."""

from detectron2.config import LazyCall as L

from samdetr.modeling import (
    DABDecoder,
    DABDecoderLayer,
    DABEncoder,
    DABEncoderLayer,
    DABPredictionHead,
    DABQueryPosition,
    LearnedReference,
)

from .conditional_detr import model
from .sam_detr_dc5 import model as sam_detr

model.backbone.stages = sam_detr.backbone.stages
model.neck.position.temperature = 20.0
model.encoder._target_ = DABEncoder
model.encoder.dim = "${model.neck.dim}"
model.encoder.layer._target_ = DABEncoderLayer
model.queries._target_ = LearnedReference
model.decoder._target_ = DABDecoder
model.decoder.layer._target_ = DABDecoderLayer
model.decoder.head._target_ = DABPredictionHead
model.decoder.position = L(DABQueryPosition)(dim="${model.neck.dim}")
