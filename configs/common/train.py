"""How a run goes: the keys of `train`, with Detectron2's names where it has them."""

import torch

train = dict(
    output_dir="output",  # checkpoints, metrics.json, TensorBoard events, log.txt, config.yaml
    init_checkpoint="",  # file or URL of a whole model or of a backbone; "" for random weights
    max_iter=90_000,
    seed=-1,  # of everything random; -1 draws one, which the log tells and a resumed run keeps
    deterministic=False,  # the same numbers from the same seed on a GPU too, at some cost
    device="cuda" if torch.cuda.is_available() else "cpu",
    amp=dict(  # automatic mixed precision in training; model.inference_dtype is for evaluation
        enabled=False,
        dtype="bfloat16",  # or "float16", with a scaled loss and on a GPU only
    ),
    clip_grad=dict(  # section 5.1
        max_norm=0.1,  # of all gradients together; inf for none
        norm_type=2.0,
    ),
    skip_nonfinite=0,  # iterations of the run whose losses or gradients may be nan or inf
    ddp=dict(  # for DistributedDataParallel
        broadcast_buffers=False,  # batch norm is frozen
        find_unused_parameters=False,  # every parameter gets a gradient in every iteration
        fp16_compression=False,
    ),
    checkpointer=dict(
        period=5000,  # iterations
        max_to_keep=3,  # the last ones, beside model_final.pth and model_best.pth
    ),
    eval_period=5000,  # iterations; 0 evaluates at the end only
    best_metric="bbox/AP",  # model_best.pth has the highest
    log_period=20,  # iterations between lines on the terminal and in metrics.json
    compile=[],  # parts of the model for torch.compile, such as [backbone,encoder]
    cudnn_benchmark=False,  # image sizes change with every batch
)
