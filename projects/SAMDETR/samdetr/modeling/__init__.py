"""The model's parts, by the names that configs use."""

from .aligner import (
    AverageResampler,
    Gate,
    ImageKeypointResampler,
    KeypointResampler,
    MaxResampler,
    NoAligner,
    OpenGate,
    SemanticsAligner,
)
from .attention import (
    AlignedCrossAttention,
    ConcatenatedCrossAttention,
    DETRCrossAttention,
    DETRSelfAttention,
    PaddingPrior,
    SelfAttention,
)
from .backbone import mini_resnet, resnet50_dc5_stages
from .criterion import SetCriterion
from .decoder import (
    Decoder,
    DecoderLayer,
    DETRPredictionHead,
    PredictionHead,
    RecomputedDecoderLayer,
)
from .denoising import Denoising, NoDenoising
from .detrs.conditional_detr import (
    AnchoredDecoder,
    AnchoredPredictionHead,
    AnchoredQueryPosition,
    ConditionalCrossAttention,
    ConditionalDecoder,
    ConditionalQueryPosition,
    ConditionalSelfAttention,
    LocatedCrossAttention,
)
from .detrs.dab_detr import (
    DABDecoder,
    DABDecoderLayer,
    DABEncoder,
    DABEncoderLayer,
    DABPredictionHead,
    DABQueryPosition,
    PatternReference,
    RecomputedDABDecoderLayer,
    RecomputedDABEncoderLayer,
)
from .detrs.deformable_detr import (
    BoxAligner,
    BoxDeformableCrossAttention,
    DeformableCrossAttention,
    DeformableDecoder,
    ExtraLevelMapper,
    LearnedContent,
    PointPredictionHead,
    RefiningDeformableDecoder,
    RefiningPredictionHead,
)
from .detrs.detr import SoftmaxCriterion, SoftmaxMatcher, SoftmaxPredictionHead
from .detrs.smca_detr import HeadAligner
from .encoder import (
    DeformableSelfAttention,
    DenseAttention,
    Encoder,
    EncoderLayer,
    RecomputedEncoderLayer,
)
from .matcher import HungarianMatcher
from .meta_arch import SAMDETR
from .neck import ChannelMapper, MultiScaleMapper
from .ops.roi_align import (
    FastestPooler,
    GatherPooler,
    RoIAlignPooler,
    SeparablePooler,
    UnpaddedPooler,
)
from .position import (
    LearnedQueryPosition,
    MaskedSinePosition,
    SinePosition,
    SineQueryPosition,
)
from .queries import CentredReference, CheckpointReference, LearnedReference, RandomReference
from .smca import GaussianPrior
from .timm_backbone import TimmBackbone
