"""The model's parts, by the names that configs use."""

from .aligner import Gate, NoAligner, SemanticsAligner
from .attention import (
    AlignedCrossAttention,
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
from .encoder import DenseAttention, Encoder, EncoderLayer
from .matcher import HungarianMatcher
from .meta_arch import SAMDETR
from .mini_backbone import mini_resnet
from .neck import ChannelMapper, MultiScaleMapper
from .pooler import RoIAlignPooler, SeparablePooler
from .position import LearnedQueryPosition, SinePosition, SineQueryPosition
from .queries import CentredReference, LearnedReference
from .resampler import KeypointResampler
from .smca import GaussianPrior

__all__ = [
    "AlignedCrossAttention",
    "CentredReference",
    "ChannelMapper",
    "Decoder",
    "DecoderLayer",
    "DeformableSelfAttention",
    "Denoising",
    "DenseAttention",
    "DETRCrossAttention",
    "DETRPredictionHead",
    "DETRSelfAttention",
    "Encoder",
    "EncoderLayer",
    "Gate",
    "GaussianPrior",
    "HungarianMatcher",
    "KeypointResampler",
    "LearnedQueryPosition",
    "LearnedReference",
    "MultiScaleMapper",
    "NoAligner",
    "NoDenoising",
    "PaddingPrior",
    "PredictionHead",
    "RoIAlignPooler",
    "SAMDETR",
    "SelfAttention",
    "SemanticsAligner",
    "SeparablePooler",
    "SetCriterion",
    "SinePosition",
    "SineQueryPosition",
    "mini_resnet",
    "resnet50_dc5_stages",
]
