"""How a run goes: the keys of `train`, with Detectron2's names where it has them."""

import torch

train = dict(
    output_dir="output",  # checkpoints, metrics.json, TensorBoard events, log.txt, config.yaml
    init_checkpoint="",  # file or URL of a whole model or of a backbone; "" for random weights
    init_reset=[],  # prefixes of the names of parameters that the checkpoint does not fill
    max_iter=90_000,
    epochs=None,  # in place of max_iter, and then these in place of the periods below
    eval_epochs=1.0,
    checkpoint_epochs=1.0,
    accumulate=1,  # batches per step
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
    freeze=[],  # prefixes of the names of parameters that are not trained, such as [backbone,neck]
    ema=dict(  # exponential moving average of the weights, which is then evaluated and saved
        enabled=False,
        decay=0.9998,
        warmup=2000,  # updates after which the decay is 63 % of that
        period=1,  # steps per update
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
    eval_loss=False,  # the losses on the test set too, as val/loss_ce etc.
    eval_pictures=0,  # test images whose detections are drawn at every evaluation
    best_metric="bbox/AP",  # model_best.pth has the highest
    early_stop=dict(  # after `patience` evaluations in which best_metric gains less than `min_gain`
        patience=0,  # 0 never stops
        min_gain=0.0,
    ),
    log_period=20,  # iterations between lines on the terminal and in metrics.json
    writers=[],  # beside the terminal, metrics.json and TensorBoard: [wandb], [mlflow], or calls
    hooks=[],  # calls of further Detectron2 hooks, run before the checkpoint of an iteration
    compile=[],  # parts of the model for torch.compile, such as [backbone,encoder]
    cudnn_benchmark=False,  # image sizes change with every batch
)
