"""A small Deformable DETR: four feature scales, three decoder layers."""

from .deformable_detr import model
from .mini import model as mini

model.backbone = mini.backbone
model.backbone.out_features = ["res3", "res4", "res5"]
model.neck.in_channels = dict(res3=96, res4=104, res5=120)
model.neck.dim = mini.neck.dim
model.encoder.layer.hidden_dim = model.decoder.layer.hidden_dim = 256
model.encoder.num_layers = 1
model.decoder.num_layers = 3
model.num_classes = mini.num_classes
model.num_queries = mini.num_queries
