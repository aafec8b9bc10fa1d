"""The small model with the parts of the baseline."""

from .detr import model as detr
from .mini import model

model.neck.norm = detr.neck.norm
model.neck.position = detr.neck.position
model.queries = detr.queries
model.decoder.layer.self_attention = detr.decoder.layer.self_attention
model.decoder.layer.aligner = detr.decoder.layer.aligner
model.decoder.layer.cross_attention = detr.decoder.layer.cross_attention
model.decoder.head = detr.decoder.head
model.decoder.position = detr.decoder.position
