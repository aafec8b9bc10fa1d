"""The baseline is the original DETR: its weights give its boxes, in a plain rewriting on torch."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch.testing import assert_close

from conftest import MODELS, make_batch
from original_detr import CLASSES, DIM, HIDDEN, QUERIES, make_original
from samdetr.convert import detr_to_samdetr


def make_ours():
    config = LazyConfig.load(str(MODELS / "detr.py")).model
    config.neck.dim = DIM
    config.encoder.layer.hidden_dim = config.decoder.layer.hidden_dim = HIDDEN
    config.encoder.num_layers = 2
    config.decoder.levels = [0, 0]
    config.num_classes, config.num_queries = CLASSES, QUERIES
    return instantiate(config)


def test_the_weights_of_an_original_detr_give_its_boxes_and_its_classes_with_its_head():
    original, ours = make_original(), make_ours()
    result = ours.load_state_dict(detr_to_samdetr(original.state_dict()), strict=False)
    head = "decoder.heads.0.classes."
    assert result.missing_keys == [head + "weight", head + "bias"]
    assert not result.unexpected_keys
    classes = {k: v[:CLASSES] for k, v in original.class_embed.state_dict().items()}
    ours.decoder.heads[0].classes.load_state_dict(classes)

    images, padding = ours.batch(make_batch(((96, 130), (64, 70)), (0, 0)))
    with torch.no_grad():
        pyramid = ours.encoder(ours.neck(ours.backbone(images.tensor), padding))
        predictions = ours.decoder(ours.queries(pyramid), pyramid)
        logits, boxes = original(images.tensor, padding)

    assert_close(predictions.boxes, boxes, atol=5e-5, rtol=0)
    assert_close(predictions.logits, logits[..., :CLASSES], atol=1e-4, rtol=0)
    assert boxes.std(2).amax(-1).min() > 1e-3  # queries differ, so the comparison says something
    assert (boxes[:, 0] - boxes[:, 1]).abs().max() > 1e-3  # and so do images


def test_weights_of_something_else_are_an_error():
    with pytest.raises(ValueError, match="not an original DETR: .*multihead_attn.in_proj_weight"):
        detr_to_samdetr({"query_embed.weight": torch.zeros(3, 4)})
