"""SAM-DETR with a ResNet-50 at stride 32: every part of the model, written once.

`${...}` refers to the one place that sets a value: widths to `model.neck.dim`, dropout to
`model.encoder.layer.dropout` (section 4.4: none), classes and queries to the last two lines.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from samdetr.modeling import (
    SAMDETR,
    AlignedCrossAttention,
    ChannelMapper,
    Decoder,
    DecoderLayer,
    DenseAttention,
    Encoder,
    EncoderLayer,
    FastestPooler,
    Gate,
    HungarianMatcher,
    KeypointResampler,
    LearnedReference,
    NoDenoising,
    PaddingPrior,
    PredictionHead,
    SelfAttention,
    SemanticsAligner,
    SetCriterion,
    SinePosition,
    SineQueryPosition,
)

model = L(SAMDETR)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res5"],
        freeze_at=2,  # stem and res2 are not trained
    ),
    neck=L(ChannelMapper)(
        in_channels=dict(res5=2048),
        dim=256,
        position=L(SinePosition)(dim="${model.neck.dim}"),
        norm="GN",
    ),
    encoder=L(Encoder)(
        layer=L(EncoderLayer)(
            attention=L(DenseAttention)(
                dim="${model.neck.dim}", num_heads=8, dropout="${model.encoder.layer.dropout}"
            ),
            dim="${model.neck.dim}",
            hidden_dim=2048,
            dropout=0.0,
        ),
        num_layers=6,
    ),
    queries=L(LearnedReference)(num_queries="${model.num_queries}", dim="${model.neck.dim}"),
    denoising=L(NoDenoising)(),
    decoder=L(Decoder)(
        layer=L(DecoderLayer)(
            self_attention=L(SelfAttention)(
                dim="${model.neck.dim}", num_heads=8, dropout="${model.encoder.layer.dropout}"
            ),
            aligner=L(SemanticsAligner)(
                pooler=L(FastestPooler)(size=7),
                resampler=L(KeypointResampler)(dim="${model.neck.dim}", num_points=8),
                content_gate=L(Gate)(dim="${model.neck.dim}", num_points=8),
                position_gate=L(Gate)(dim="${model.neck.dim}", num_points=8),
            ),
            cross_attention=L(AlignedCrossAttention)(
                dim="${model.neck.dim}",
                num_heads=8,
                prior=L(PaddingPrior)(),
                dropout="${model.encoder.layer.dropout}",
            ),
            dim="${model.neck.dim}",
            hidden_dim=2048,
            dropout="${model.encoder.layer.dropout}",
        ),
        head=L(PredictionHead)(dim="${model.neck.dim}", num_classes="${model.num_classes}"),
        position=L(SineQueryPosition)(dim="${model.neck.dim}"),
        levels=[0] * 6,
    ),
    criterion=L(SetCriterion)(matcher=L(HungarianMatcher)()),
    num_classes=80,
    num_queries=300,
)
