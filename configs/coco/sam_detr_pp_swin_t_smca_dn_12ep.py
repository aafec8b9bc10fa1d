"""SAM-DETR++ w/ SMCA + DN, Swin-T, 12 epochs (not in the paper)."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SwinTransformer

from .sam_detr_pp_r50_smca_dn_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SwinTransformer)(
    embed_dim=96,
    depths=[2, 2, 6, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    drop_path_rate=0.2,
    out_indices=[1, 2, 3],
)
model.neck.in_channels = dict(p1=192, p2=384, p3=768)  # of strides 8, 16 and 32
train.init_checkpoint = (
    "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_tiny_patch4_window7_224.pth"
)
train.output_dir = "output/sam_detr_pp_swin_t_smca_dn_12ep"
