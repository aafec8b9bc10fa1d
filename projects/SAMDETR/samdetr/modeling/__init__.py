"""The model's parts, by the names that configs use."""

from .aligner import Gate, NoAligner, OpenGate, SemanticsAligner
from .attention import (
    AlignedCrossAttention,
    ConcatenatedCrossAttention,
    DETRCrossAttention,
    DETRSelfAttention,
    PaddingPrior,
    SelfAttention,
)
from .backbone import resnet50_dc5_stages
from .criterion import SetCriterion
from .decoder import Decoder, DecoderLayer, DETRPredictionHead, PredictionHead
from .deformable import DeformableSelfAttention
from .denoising import Denoising, NoDenoising
from .detrs.anchored import AnchoredDecoder, AnchoredPredictionHead, AnchoredQueryPosition
from .detrs.conditional_detr import (
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
from .encoder import DenseAttention, Encoder, EncoderLayer
from .matcher import HungarianMatcher
from .meta_arch import SAMDETR
from .mini_backbone import mini_resnet
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
from .recomputation import (
    RecomputedDABDecoderLayer,
    RecomputedDABEncoderLayer,
    RecomputedDecoderLayer,
    RecomputedEncoderLayer,
)
from .resampler import (
    AverageResampler,
    ImageKeypointResampler,
    KeypointResampler,
    MaxResampler,
)
from .smca import GaussianPrior

__all__ = [
    "AlignedCrossAttention",
    "AnchoredDecoder",
    "AnchoredPredictionHead",
    "AnchoredQueryPosition",
    "AverageResampler",
    "BoxAligner",
    "BoxDeformableCrossAttention",
    "CentredReference",
    "ChannelMapper",
    "CheckpointReference",
    "ConcatenatedCrossAttention",
    "ConditionalCrossAttention",
    "ConditionalDecoder",
    "ConditionalQueryPosition",
    "ConditionalSelfAttention",
    "DABDecoder",
    "DABDecoderLayer",
    "DABEncoder",
    "DABEncoderLayer",
    "DABPredictionHead",
    "DABQueryPosition",
    "Decoder",
    "DecoderLayer",
    "DeformableCrossAttention",
    "DeformableDecoder",
    "DeformableSelfAttention",
    "Denoising",
    "DenseAttention",
    "DETRCrossAttention",
    "DETRPredictionHead",
    "DETRSelfAttention",
    "Encoder",
    "EncoderLayer",
    "ExtraLevelMapper",
    "FastestPooler",
    "Gate",
    "GatherPooler",
    "GaussianPrior",
    "HeadAligner",
    "HungarianMatcher",
    "ImageKeypointResampler",
    "KeypointResampler",
    "LearnedContent",
    "LearnedQueryPosition",
    "LearnedReference",
    "LocatedCrossAttention",
    "MaskedSinePosition",
    "MaxResampler",
    "MultiScaleMapper",
    "NoAligner",
    "NoDenoising",
    "OpenGate",
    "PaddingPrior",
    "PointPredictionHead",
    "PredictionHead",
    "RandomReference",
    "RecomputedDABDecoderLayer",
    "RecomputedDABEncoderLayer",
    "RecomputedDecoderLayer",
    "RecomputedEncoderLayer",
    "RefiningDeformableDecoder",
    "RefiningPredictionHead",
    "RoIAlignPooler",
    "SAMDETR",
    "SelfAttention",
    "SemanticsAligner",
    "SeparablePooler",
    "SetCriterion",
    "SinePosition",
    "SineQueryPosition",
    "SoftmaxCriterion",
    "SoftmaxMatcher",
    "SoftmaxPredictionHead",
    "UnpaddedPooler",
    "mini_resnet",
    "resnet50_dc5_stages",
]
