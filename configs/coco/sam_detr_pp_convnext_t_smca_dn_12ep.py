"""SAM-DETR++ w/ SMCA + DN, ConvNeXt-T of ImageNet-22k, 12 epochs (not in the paper)."""

from detectron2.config import LazyCall as L

from samdetr.modeling import TimmBackbone

from .sam_detr_pp_r50_smca_dn_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(TimmBackbone)(
    name="convnext_tiny", out_features=["p3", "p4", "p5"], drop_path_rate=0.2
)
model.neck.in_channels = dict(p3=192, p4=384, p5=768)
train.init_checkpoint = (
    "https://huggingface.co/timm/convnext_tiny.fb_in22k/resolve/main/model.safetensors"
)
train.output_dir = "output/sam_detr_pp_convnext_t_smca_dn_12ep"
