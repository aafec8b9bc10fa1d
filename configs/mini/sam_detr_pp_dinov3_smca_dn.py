"""SAM-DETR++ w/ SMCA + DN with a small DINOv3 ViT, on the bundled data set."""

from detectron2.config import LazyCall as L

from samdetr.engine import LayerDecay
from samdetr.modeling import TimmBackbone

from .sam_detr_pp_smca_dn import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(TimmBackbone)(
    name="vit_small_patch16_dinov3",
    out_features=["p3", "p4", "p5"],
    pyramid_dim=96,
    depth=2,
    embed_dim=96,
    num_heads=4,
)
model.neck.in_channels = dict(p3=96, p4=96, p5=96)
optimizer.params.lr_factor_func = L(LayerDecay)(rate=0.7, num_layers=2)
train.init_checkpoint = ""
train.output_dir = "output/mini/sam_detr_pp_dinov3_smca_dn"
