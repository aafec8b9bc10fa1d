"""SAM-DETR++ w/ SMCA + DN, ViT-B of MAE in the form of ViTDet, 12 epochs (not in the paper)."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid, ViT

from samdetr.engine import LayerDecay

from .sam_detr_pp_r50_smca_dn_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(
        img_size=1024,
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=0.1,
        window_size=14,
        window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
        use_rel_pos=True,
    ),
    in_feature="last_feat",
    out_channels=256,
    scale_factors=[2.0, 1.0, 0.5],
)
model.neck.in_channels = dict(p3=256, p4=256, p5=256)
optimizer.params.lr_factor_func = L(LayerDecay)(rate=0.7, num_layers=12)
train.init_checkpoint = "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth"
train.output_dir = "output/sam_detr_pp_vitdet_b_smca_dn_12ep"
