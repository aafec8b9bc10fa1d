"""Visualisation of the decoder: the attention of every layer, query and head (figures 3 and 5)."""

from .comparison import Contestant, draw_images, image_records, inspect, load_contestants
from .drawing import draw_heads, draw_layers, write_page
from .views import (
    ImageView,
    LayerRecord,
    LayerView,
    MapView,
    Observation,
    QueryView,
    attention_weights,
    best_queries,
    gaussian_sharpness,
    observe,
    same_object,
    view_query,
)
