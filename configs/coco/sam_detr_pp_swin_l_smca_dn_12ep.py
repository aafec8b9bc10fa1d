"""SAM-DETR++ w/ SMCA + DN, Swin-L of ImageNet-22k, 12 epochs (not in the paper)."""

from .sam_detr_pp_swin_t_smca_dn_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.embed_dim = 192
model.backbone.depths = [2, 2, 18, 2]
model.backbone.num_heads = [6, 12, 24, 48]
model.backbone.window_size = 12
model.backbone.drop_path_rate = 0.3
model.neck.in_channels = dict(p1=384, p2=768, p3=1536)
train.init_checkpoint = (
    "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_large_patch4_window12_384_22k.pth"
)
train.output_dir = "output/sam_detr_pp_swin_l_smca_dn_12ep"
