"""A small SAM-DETR for the bundled data: one feature level (stride 8), three decoder layers."""

from detectron2.config import LazyCall as L

from samdetr.modeling import mini_resnet

from .sam_detr import model

model.backbone = L(mini_resnet)(out_features=["res3"], norm="FrozenBN", freeze_at=0)
model.neck.in_channels = dict(res3=96)
model.neck.dim = 96
model.encoder.layer.hidden_dim = 256
model.encoder.num_layers = 1
model.decoder.layer.hidden_dim = 256
model.decoder.layer.aligner.resampler.reduced_dim = 16
model.decoder.layer.aligner.resampler.hidden_dims = (96, 96, 96)
model.decoder.levels = [0] * 3
model.num_classes = 10
model.num_queries = 30
