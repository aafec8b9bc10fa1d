"""The original DETR with a softmax over the classes, small, on the bundled data set."""

from ..common.models.detr_softmax import model
from ..common.models.mini import model as mini
from .sam_detr import dataloader, lr_multiplier, optimizer, train

model.backbone = mini.backbone
model.neck.in_channels = mini.neck.in_channels
model.neck.dim = mini.neck.dim
model.encoder.num_layers = mini.encoder.num_layers
model.encoder.layer.hidden_dim = mini.encoder.layer.hidden_dim
model.decoder.layer.hidden_dim = mini.decoder.layer.hidden_dim
model.decoder.levels = mini.decoder.levels
model.num_classes = mini.num_classes
model.num_queries = mini.num_queries
train.output_dir = "output/mini/detr_softmax"
