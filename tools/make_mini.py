"""Write a data set like `mini` (digits on photographs, COCO format) to a folder.

    python tools/make_mini.py OUT --train 4000 --val 500 --size 128 --max-objects 6

Not needed for training: `mini_train` and `mini_val` are generated on first use.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from samdetr.data.mini import MINI_COUNTS, SceneParameters, write_mini
from samdetr.errors import refusing


@refusing("make_mini.py")
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="output folder")
    for split, count in MINI_COUNTS.items():
        parser.add_argument(
            f"--{split}", type=int, default=count, help=f"number of images ({count})"
        )
    fields = dataclasses.fields(SceneParameters)
    for field in fields:
        option = "--" + field.name.replace("_", "-")
        default = field.default
        parser.add_argument(option, type=type(default), default=default, help=f"({default})")
    args = parser.parse_args(arguments)

    counts = {split: getattr(args, split) for split in MINI_COUNTS}
    for split, count in counts.items():
        if count < 1:
            parser.error(f"--{split} is {count}, must be 1 or more")
    parameters = SceneParameters(**{field.name: getattr(args, field.name) for field in fields})
    args.out.mkdir(parents=True, exist_ok=True)
    write_mini(args.out, parameters, counts)
    for split in MINI_COUNTS:
        print(f"{args.out / split}.json  {args.out / split}/")


if __name__ == "__main__":
    main()
