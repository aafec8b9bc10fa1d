"""SAM-DETR++ w/ SMCA + DN with a small Swin Transformer, on the bundled data set."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SwinTransformer

from .sam_detr_pp_smca_dn import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SwinTransformer)(
    embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=4, out_indices=[1, 2, 3]
)
model.neck.in_channels = dict(p1=64, p2=128, p3=256)  # of strides 8, 16 and 32
train.init_checkpoint = ""
train.output_dir = "output/mini/sam_detr_pp_swin_smca_dn"
