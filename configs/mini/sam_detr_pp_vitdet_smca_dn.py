"""SAM-DETR++ w/ SMCA + DN with a small ViT in the form of ViTDet, on the bundled data set."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid, ViT

from samdetr.engine import LayerDecay

from .sam_detr_pp_smca_dn import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(
        img_size=96,
        embed_dim=96,
        depth=2,
        num_heads=4,
        window_size=4,
        window_block_indexes=[0],
        use_rel_pos=True,
    ),
    in_feature="last_feat",
    out_channels=96,
    scale_factors=[2.0, 1.0, 0.5],
)
model.neck.in_channels = dict(p3=96, p4=96, p5=96)
optimizer.params.lr_factor_func = L(LayerDecay)(rate=0.7, num_layers=2)
train.init_checkpoint = ""
train.output_dir = "output/mini/sam_detr_pp_vitdet_smca_dn"
