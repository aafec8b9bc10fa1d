"""bfloat16 in training: where float32 stays, and how far the numbers move."""

import pytest
import torch
from detectron2.config import LazyCall as L
from torch.testing import assert_close

from conftest import make_batch, make_model, randomize
from samdetr.modeling import Denoising

VARIANTS = {
    "detr": {},
    "sam_detr": {},
    "sam_detr_smca": {
        "denoising": L(Denoising)(num_classes="${model.num_classes}", dim="${model.neck.dim}")
    },
}


def losses_of(model, batch, enabled):
    """Losses with the same denoising queries every time, what was seen on the way, gradients."""
    seen = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda *x, name=name: seen.update({name: x[-1]}))
        for name in ("neck", "decoder")
    ]
    torch.manual_seed(3)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        losses = model(batch)
    sum(losses.values()).backward()
    for hook in hooks:
        hook.remove()
    return losses, seen, {name: x.grad for name, x in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_boxes_and_positions_stay_float32_and_losses_near_their_value(variant):
    model = randomize(make_model(variant, **VARIANTS[variant]), std=0.02).train()
    batch = make_batch(counts=(3, 2))

    expected, wanted, _ = losses_of(model, batch, enabled=False)
    losses, seen, gradients = losses_of(model, batch, enabled=True)

    assert seen["neck"][0].tokens.dtype == torch.bfloat16  # it is on
    assert_close(seen["neck"][0].position, wanted["neck"][0].position, rtol=0, atol=0)
    tensors = [*losses.values(), *seen["decoder"], *gradients.values()]
    assert {x.dtype for x in tensors} == {torch.float32}
    assert all(x.isfinite().all() for x in tensors)
    for name, value in expected.items():
        assert_close(losses[name], value, rtol=0.05, atol=0.02, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_not_rounded(variant):
    model = randomize(make_model(variant)).train()
    decoder, x, reference = model.decoder, torch.randn(2, 12, 64), torch.randn(2, 12, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.predict(0, x.bfloat16(), reference)
    assert_close(found, decoder.predict(0, x.bfloat16().float(), reference), rtol=0, atol=0)
