"""SAM-DETR++ w/ SMCA + DN with a small ConvNeXt, on the bundled data set."""

from detectron2.config import LazyCall as L

from samdetr.modeling import TimmBackbone

from .sam_detr_pp_smca_dn import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(TimmBackbone)(
    name="convnext_atto",
    out_features=["p3", "p4", "p5"],
    depths=[1, 1, 2, 1],
    dims=[32, 64, 96, 128],
)
model.neck.in_channels = dict(p3=64, p4=96, p5=128)
train.init_checkpoint = ""
train.output_dir = "output/mini/sam_detr_pp_convnext_smca_dn"
