#!/usr/bin/env python
"""Train and evaluate what a LazyConfig describes. See --help, and README.md."""

import sys
import warnings

# What Detectron2's import says on today's torch; nobody who runs this can change it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

try:
    from samdetr.checkpoint import CheckpointError
    from samdetr.engine import ConfigError, argument_parser, load_config, main, start
except ModuleNotFoundError as error:
    if error.name != "samdetr":
        raise
    sys.exit(
        f"train_net.py: samdetr is not installed for {sys.executable}: run `make env` and use "
        ".venv/bin/python, or `pip install -e .`"
    )

if __name__ == "__main__":
    args = argument_parser().parse_args()
    try:
        load_config(args.config_file, args.opts)  # an error here is better than one per process
        start(main, args)
    except (ConfigError, CheckpointError) as error:
        sys.exit(f"train_net.py: {error}")
