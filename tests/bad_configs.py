"""Values of a config that cannot work, with what is said of them, and unusual ones that do."""

import math

import torch
from torch import nn

from samdetr.modeling import HungarianMatcher, SetCriterion

VARIANTS = [
    "mini/sam_detr_smca",
    "mini/sam_detr_pp_smca_dn",
    "mini/deformable_detr",
    "mini/dn_detr",
    "mini/detr_softmax",
    "mini/smca_detr",
]
SMCA, DN, DEFORMABLE = VARIANTS[0], VARIANTS[1], VARIANTS[2]
ATTENTION = "model.decoder.layer.cross_attention"
RESIZING = "dataloader.train.mapper.augmentations.0"
RESAMPLER = "model.decoder.layer.aligner.resampler"
IDENTITY = {"_target_": "torch.nn.Identity"}
CONSTANT = {"_target_": "fvcore.common.param_scheduler.ConstantParamScheduler"}
STEPS = {
    "_target_": "fvcore.common.param_scheduler.MultiStepParamScheduler",
    "values": [1.0, -5.0, 1.0],  # below 0 for a twentieth of the run
    "milestones": [10, 15],
    "num_updates": 100,
}
TEST_LOADER = {
    "_target_": "detectron2.data.build_detection_test_loader",
    "dataset": "${..test.dataset}",
    "mapper": {
        "_target_": "samdetr.data.DetectionMapper",
        "is_train": True,
        "augmentations": [],
        "image_format": "RGB",
    },
}
INFERENCE = {"_target_": "detectron2.data.samplers.InferenceSampler", "size": 10}
HUGE = 10**400  # larger than any float


def optimizer(target, **options):
    params = {"_target_": "detectron2.solver.build.get_default_optimizer_params", "base_lr": 0.1}
    lr = {} if "." in target else {"lr": 0.1}
    target = target if "." in target else f"torch.optim.{target}"
    return {"_target_": target, "params": params, **lr, **options}


class Odd(nn.Module):
    """A criterion that gives something else than losses."""

    GIVEN = {
        "list": [torch.ones(())],
        "none": {},
        "vector": {"loss": torch.ones(2)},
        "float": {"loss": 1.0},
        "nan": {"loss": torch.tensor(math.nan)},
    }

    def __init__(self, kind="list"):
        super().__init__()
        self.kind = kind

    def forward(self, predictions, targets, known):
        return self.GIVEN[self.kind]


def criterion(kind):
    return {"_target_": "bad_configs.Odd", "kind": kind}


WRONG = [
    # Parts that do not fit together.
    (SMCA, f"{ATTENTION}.num_heads", 7, "dim must be a multiple of num_heads, got 96 and 7"),
    (SMCA, f"{ATTENTION}.num_heads", 0, "num_heads is 0, must be 1 or more"),
    (SMCA, f"{ATTENTION}.num_heads", 4, "num_heads is 4, but prior.num_points 8"),
    (SMCA, f"{RESAMPLER}.num_points", 4, "num_points is 8, but the resampler gives 4"),
    (SMCA, f"{RESAMPLER}.region_size", 5, "the pooler gives 7 x 7 bins, but .*region_size=5"),
    (SMCA, f"{RESAMPLER}.hidden_dims", [32, 16], "the parts of the model, in decoder.layers.0"),
    (SMCA, "model.encoder.layer.dim", 32, "the parts of the model, in encoder.layers.0"),
    (SMCA, "model.decoder.levels", [], "levels must name a feature level"),
    (SMCA, "model.decoder.levels", [0, 1], r"decoder.levels is \[0, 1\], but the neck gives 1"),
    (SMCA, "model.decoder.levels", [-1], r"decoder.levels is \[-1\], but the neck gives 1"),
    (SMCA, "model.neck.in_channels", {}, "the number of in_channels is 0"),
    (SMCA, "model.neck.in_channels", {"res3": 95}, "95 channels of 'res3', the backbone gives"),
    (SMCA, "model.backbone.out_features", ["res9"], r"\['res9'\]: expected some of"),
    (DN, "model.denoising.num_classes", 3, "num_classes is 10, denoising has 3"),
    (DN, "model.denoising.num_groups", 0, "num_groups must be at least 1"),
    (DN, "model.denoising.label_noise", 1.5, r"label_noise must be in \[0, 1\]"),
    (DN, "model.denoising.box_noise", math.nan, r"box_noise in \[0, 1\)"),
    (DEFORMABLE, "model.encoder.layer.attention.num_levels", 3, "num_levels=3, but the neck"),
    (DEFORMABLE, "model.encoder.layer.attention.num_points", 0, "num_points is 0"),
    # Numbers that cannot be.
    (SMCA, "model.num_queries", 0, "num_queries is 0, must be 1 or more"),
    (SMCA, "model.num_queries", "many", "num_queries is 'many', expected an integer"),
    (SMCA, "model.num_classes", 0, "num_classes is 0, must be 1 or more"),
    (SMCA, "model.num_classes", -1, "num_classes is -1, must be 1 or more"),
    (SMCA, "model.detections_per_image", 0, "detections_per_image is 0"),
    (SMCA, "model.pixel_std", [1, 0, 1], "pixel_std"),
    (SMCA, "model.input_format", "HSV", "input_format is 'HSV', expected RGB or BGR"),
    (SMCA, "model.inference_dtype", "int8", "inference_dtype is 'int8'"),
    (SMCA, "model.encoder.num_layers", -1, "num_layers is -1, must be 0 or more"),
    (SMCA, "model.encoder.layer.dropout", 1.5, r"dropout is 1.5, must be in \[0, 1\]"),
    (SMCA, "model.encoder.layer.dropout", -0.1, r"dropout is -0.1, must be in \[0, 1\]"),
    (SMCA, f"{ATTENTION}.dropout", math.nan, r"cross_attention.dropout, do not fit"),
    (SMCA, "model.decoder.layer.hidden_dim", 0, "hidden_dim is 0, must be 1 or more"),
    (SMCA, "model.decoder.layer.aligner.pooler.size", 0, "size is 0, must be 1 or more"),
    (SMCA, f"{RESAMPLER}.hidden_dims", [], "hidden_dims is 0"),
    (SMCA, f"{ATTENTION}.prior.bandwidth", 0.0, "bandwidth is 0.0, must be above 0"),
    (SMCA, "model.criterion.alpha", 2, r"alpha is 2, must be in \[0, 1\]"),
    (SMCA, "model.criterion.matcher.giou_weight", -1.0, "giou_weight is -1.0, must be 0 or more"),
    (SMCA, "model.neck.norm", "XN", "model.neck cannot be built"),
    (SMCA, "model.backbone.norm", "XN", "model.backbone cannot be built"),
    (SMCA, "optimizer.lr", -1e-4, "optimizer.lr is -0.0001, expected a finite number, 0 or more"),
    (SMCA, "optimizer.lr", math.nan, "optimizer.lr is nan"),
    (SMCA, "optimizer.params.base_lr", math.inf, "lr=inf, expected 0 or more, and finite"),
    (SMCA, "optimizer.weight_decay", -1.0, "the optimizer cannot be built: Invalid weight_decay"),
    (SMCA, "optimizer.params.lr_factor_func.factor", -1.0, "factor is -1.0, must be 0 or more"),
    (SMCA, "lr_multiplier.warmup_length", 3, "lr_multiplier.warmup_length is 3"),
    (SMCA, "lr_multiplier.scheduler.end_value", -1.0, "lr_multiplier is -0.* 0 or more"),
    (SMCA, "lr_multiplier", STEPS, "lr_multiplier is -5.0 at 10% of the run, expected 0 or more"),
    (
        SMCA,
        "lr_multiplier",
        {**CONSTANT, "value": HUGE},
        "value has 1329 bits, expected .* 64 bits",
    ),
    (SMCA, "lr_multiplier", IDENTITY, "lr_multiplier makes a Identity, expected one of fvcore"),
    # Optimisers that cannot step.
    (SMCA, "optimizer", optimizer("torch.nn.Identity"), "a Identity, expected one of torch's"),
    (SMCA, "optimizer", optimizer("LBFGS"), "LBFGS, whose step needs a closure"),
    (SMCA, "optimizer", optimizer("SparseAdam"), "cannot step with .* support dense gradients"),
    (SMCA, "optimizer", optimizer("AdamW", capturable=True), "cannot step with .*'capturable'"),
    (SMCA, "optimizer", optimizer("AdamW", eps=math.inf), "eps=inf, expected 0 or more, and fin"),
    (SMCA, "optimizer", optimizer("SGD", momentum=math.nan), "momentum=nan, expected 0 or more"),
    (SMCA, "optimizer", optimizer("SGD", momentum=0.9, dampening=math.inf), "that are not finite"),
    (SMCA, "optimizer.params.overrides", {"bias": {"betas": 5}}, "cannot step with .*'betas': 5"),
    (SMCA, "optimizer.params.overrides", {"bias": {"betas": [2.0, 3.0]}}, "'betas': .2.0, 3.0"),
    # Settings of the run.
    (SMCA, "train.max_iter", HUGE, "train.max_iter has 1329 bits, expected an integer of 64 bits"),
    (SMCA, "train.max_iter", 10**5000, "train.max_iter has 16610 bits, expected an integer of 64"),
    (SMCA, "train.seed", 2**63, "train.seed has 64 bits, expected"),
    (SMCA, "train.clip_grad.max_norm", HUGE, "train.clip_grad.max_norm has 1329 bits"),
    (SMCA, "train.output_dir", "a\0b", "train.output_dir is .*, expected the path of a folder"),
    (SMCA, "train.output_dir", "\ud800", "train.output_dir is .*, expected the path of a folder"),
    (SMCA, "train.best_metric", ["x" * 10**6], r"best_metric is .{,600}, expected text$"),
    (SMCA, "train.max_iter", 0, "train.max_iter is 0, expected an integer, 1 or more"),
    (SMCA, "train.max_iter", -5, "train.max_iter is -5"),
    (SMCA, "train.max_iter", 1.5, "train.max_iter is 1.5"),
    (SMCA, "train.seed", -2, "train.seed is -2"),
    (SMCA, "train.output_dir", "", "train.output_dir is '', expected the path of a folder"),
    (SMCA, "train.eval_period", -1, "train.eval_period is -1, expected an integer, 0 or more"),
    (SMCA, "train.log_period", 0, "train.log_period is 0"),
    (SMCA, "train.checkpointer.period", 0, "train.checkpointer.period is 0"),
    (SMCA, "train.checkpointer.max_to_keep", 0, "max_to_keep is 0, expected .* or null"),
    (SMCA, "train.checkpointer.perod", 5, "train.checkpointer.perod: .* nearest is 'period'"),
    (SMCA, "train.clip_grad.max_norm", 0.0, "train.clip_grad.max_norm is 0.0"),
    (SMCA, "train.clip_grad.max_norm", -1.0, "train.clip_grad.max_norm is -1.0"),
    (SMCA, "train.clip_grad.max_norm", math.nan, "train.clip_grad.max_norm is nan"),
    (SMCA, "train.amp.dtype", "float8", "train.amp.dtype is 'float8', expected one of"),
    (SMCA, "train.amp", {"enabled": True, "dtype": "float16"}, "'float16', which needs a GPU"),
    (SMCA, "train.amp", True, "train.amp is True, expected a group of keys"),
    (SMCA, "train.amp", {"enabled": True}, "the config lacks train.amp.dtype"),
    (SMCA, "train.device", "gpu", "train.device 'gpu' is none: expected cpu, cuda or cuda:0"),
    (SMCA, "train.device", "meta", "train.device 'meta' computes nothing"),
    (SMCA, "train.device", "cpu:7", "train.device 'cpu:7' computes nothing"),
    (SMCA, "train.device", "vulkan", "train.device 'vulkan' is not there for this torch"),
    (SMCA, "train.ddp.module", True, "train.ddp.module: there is no such key"),
    (SMCA, "train.ddp.device_ids", True, "train.ddp.device_ids: there is no such key"),
    (SMCA, "train.ddp.bucket_cap_mb", True, "bucket_cap_mb is True, expected MiB above 0"),
    (SMCA, "train.ddp.brodcast_buffers", True, "its nearest is 'broadcast_buffers'"),
    (SMCA, "train.ddp.broadcast_buffers", 1, "broadcast_buffers is 1, expected true or false"),
    (SMCA, "train.max_itr", 5, "train.max_itr: there is no such key, its nearest is 'max_iter'"),
    (SMCA, "train.compile", ["backbon"], "to compile 'backbon': the model has no such part"),
    (SMCA, "dataloader.train.total_batch_size", 0, "total_batch_size is 0"),
    (SMCA, "dataloader.train.num_workers", -1, "dataloader.train.num_workers is -1"),
    (SMCA, "dataloader.test.num_workers", -1, "dataloader.test.num_workers is -1"),
    (SMCA, "dataloader.train.mapper.is_train", False, "mapper.is_train is False, expected true"),
    (SMCA, "dataloader.train.mapper.image_format", "CMYK", "image_format is 'CMYK'"),
    (SMCA, "dataloader.train.mapper.image_format", "BGR", "'BGR', but model.input_format 'RGB'"),
    (SMCA, "dataloader.test.mapper.image_format", "BGR", "'BGR', but model.input_format 'RGB'"),
    (SMCA, "model.input_format", "BGR", "image_format is 'RGB', but model.input_format 'BGR'"),
    (SMCA, f"{RESIZING}.max_size", "x", "max_size is 'x', expected an integer"),
    (SMCA, f"{RESIZING}.max_size", 0, "max_size is 0, must be 1 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", -1, "short_edge_length is -1, must be 0 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", [], r"short_edge_length is \[\], must be 0 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", [9.5, 10], "length is .*, must be 0 or more"),
    (SMCA, f"{RESIZING}.short_edge_length", [96, 64], "the least and the greatest"),
    (SMCA, f"{RESIZING}.short_edge_length", [8, 9, 10], "the least and the greatest"),
    (SMCA, f"{RESIZING}.sample_style", "choise", "sample_style is 'choise', must be range or"),
    (SMCA, "dataloader.train.mapper", None, "dataloader.train.mapper is None, expected a part"),
    (SMCA, "dataloader.evaluator", None, "dataloader.evaluator is None, expected a call"),
    (SMCA, "dataloader.evaluator", IDENTITY, "Identity, expected a DatasetEvaluator"),
    (SMCA, "dataloader.evaluator.dataset_name", "mini_train", "'mini_train', but .* 'mini_val'"),
    (SMCA, "dataloader.train.num_workers", 10**9, "1000000000, expected an integer, 0 to 1024"),
    (SMCA, "dataloader.train.mapper", IDENTITY, "makes a Identity, which gives no 'image'"),
    (SMCA, "dataloader.train", TEST_LOADER, "whose images end: expected samdetr.data"),
    (SMCA, "dataloader.train.sampler", INFERENCE, "InferenceSampler, must be one of .* training"),
    # Calls.
    (SMCA, "model.criterion", IDENTITY, "of the model, in criterion, do not fit: TypeError"),
    (SMCA, "model.criterion.matcher", IDENTITY, "in criterion.matcher, do not fit: TypeError"),
    (DN, "model.criterion.matcher", IDENTITY, "in criterion.matcher, do not fit: TypeError"),
    (SMCA, "model.denoising", IDENTITY, "in denoising, do not fit: TypeError"),
    (
        SMCA,
        "model.criterion",
        criterion("list"),
        r"criterion \(Odd\) gives a list, expected losses",
    ),
    (SMCA, "model.criterion", criterion("none"), "gives a dict, expected losses by name"),
    (SMCA, "model.criterion", criterion("vector"), "gives loss that is no tensor of one number"),
    (SMCA, "model.criterion", criterion("float"), "gives loss that is no tensor of one number"),
    (SMCA, "model.criterion", criterion("nan"), "gives loss=nan, expected a finite loss"),
    (SMCA, "model._target_", "samdetr.modeling.SAMDET", "model._target_ is .* cannot be found"),
    (SMCA, "model._target_", "samdetr.modeling.attention.__doc__", "which cannot be called"),
    (SMCA, "model.criterion", 5, "model.criterion is 5, expected a part, with a _target_"),
    (SMCA, "model.criterion", {"_target_": "samdetr.modeling.SetCriterion"}, "lacks 'matcher'"),
    (SMCA, "model.neck.dimm", 64, "model.neck.dimm: ChannelMapper.* its nearest is 'dim'"),
    (SMCA, "model.neck.dim", "64", "neck.*dim is '64', expected an integer"),
    (SMCA, "model.num_queries", "${model.num_querys}", "num_queries refers to what is not"),
    (SMCA, "model.num_queries", "${model.num_queries}", "refers to what is not there"),
    (SMCA, "model.num_queries", "???", "num_queries refers to what is not there"),
]

SUBSET = {"_target_": "detectron2.data.samplers.RandomSubsetTrainingSampler", "size": 10}
FITTING = [
    ("train.ddp.bucket_cap_mb", 25),
    ("train.ddp.static_graph", True),
    ("train.ddp.forward_sync_buffers", False),
    ("train.seed", 2**63 - 1),
    ("train.device", "cpu:0"),
    ("train.output_dir", "\udcff"),  # of a byte that is no character
    ("dataloader.train.num_workers", 1024),
    ("dataloader.train.sampler", {**SUBSET, "subset_ratio": 0.1}),
    ("dataloader.train.mapper", {"_target_": "detectron2.data.DatasetMapper", "is_train": True,
     "augmentations": [], "image_format": "RGB"}),
    ("dataloader.train.mapper", {"_target_": "bad_configs.PanopticMapper"}),
    ("lr_multiplier", {**CONSTANT, "value": 0}),
    ("model.criterion", {"_target_": "bad_configs.Restless"}),
    *(("optimizer", optimizer(x)) for x in ("Rprop", "Adagrad", "Adafactor", "RMSprop", "ASGD")),
    ("optimizer", optimizer("SGD", momentum=0.9, weight_decay=0.1, nesterov=True)),
    ("optimizer.params.overrides", {"bias": {"betas": [0.5, 0.6], "eps": 0.1}}),
]  # fmt: skip


class PanopticMapper:
    """A mapper that needs more of an entry than anybody can make up."""

    def __call__(self, record):
        return {"image": record["pan_seg_file_name"]}


class Restless(SetCriterion):
    """Draws random numbers and counts its calls."""

    def __init__(self):
        super().__init__(HungarianMatcher())
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, predictions, targets, known=None):
        self.calls += torch.rand(2)
        return super().forward(predictions, targets, known)


BEFORE_DATA = [
    "model.criterion.matcher._target_=torch.nn.Identity",
    "optimizer.params.overrides={bias: {betas: 5}}",
    "train.device=meta",
    "train.output_dir='http://127.0.0.1/x'",
    "dataloader.evaluator.dataset_name=mini_train",
    "dataloader.train.num_workers=1000000000",
    "model.decoder.levels=[5]",
    "model.num_queries=0",
    "model.encoder.layer.dim=32",
    "optimizer.lr=-1",
    "optimizer.params.base_lr=-1",
    "train.max_iter=0",
    "train.amp.dtype=float8",
    "train.amp={enabled: true, dtype: float16}",
    "train.device=gpu",
    "train.log_period=0",
    "train.compile=[backbon]",
    "train.clip_grad.max_norm=nan",
    "dataloader.train.num_workers=-1",
    "dataloader.train.total_batch_size=0",
    "lr_multiplier.warmup_length=3",
    "lr_multiplier.scheduler.start_value=-1",
    "dataloader.evaluator._target_=samdetr.evaluation.Nothing",
    "dataloader.train.mapper.augmentations.0.max_size=none",
]
