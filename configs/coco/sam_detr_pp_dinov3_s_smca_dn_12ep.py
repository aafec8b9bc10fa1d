"""SAM-DETR++ w/ SMCA + DN, DINOv3 ViT-S, 12 epochs (not in the paper)."""

from detectron2.config import LazyCall as L

from samdetr.engine import LayerDecay
from samdetr.modeling import TimmBackbone

from .sam_detr_pp_r50_smca_dn_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(TimmBackbone)(name="vit_small_patch16_dinov3", out_features=["p3", "p4", "p5"])
model.neck.in_channels = dict(p3=256, p4=256, p5=256)
optimizer.params.lr_factor_func = L(LayerDecay)(rate=0.7, num_layers=12)
train.init_checkpoint = (
    "https://huggingface.co/timm/vit_small_patch16_dinov3.lvd1689m/resolve/main/model.safetensors"
)
train.output_dir = "output/sam_detr_pp_dinov3_s_smca_dn_12ep"
