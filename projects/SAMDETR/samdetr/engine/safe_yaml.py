"""Reading YAML configs of strangers: plain data, and calls of the parts of detectors alone.

`LazyConfig.load` calls whatever the `_target_`s of a file name, `os.system` included.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import yaml
from detectron2.layers import ShapeSpec
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError

# A YAML config may call the classes of these packages, ...
PACKAGES = (
    "samdetr.data.", "samdetr.engine.", "samdetr.evaluation.", "samdetr.modeling.",
    "samdetr.writers.",
    "detectron2.data.", "detectron2.evaluation.", "detectron2.layers.", "detectron2.modeling.",
    "detectron2.solver.", "detectron2.structures.",
    "fvcore.common.param_scheduler.", "fvcore.transforms.",
    "torch.nn.", "torch.optim.", "torchvision.ops.",
)  # fmt: skip
UNSAFE = "detectron2.modeling.mmdet_wrapper."  # builds arbitrary objects of other packages
# ... and these functions. Others of the same packages load pickles or run config files.
FUNCTIONS = (
    "samdetr.data.build_train_loader",
    "samdetr.data.load_detection_dataset",
    "samdetr.data.load_own_dataset",
    "samdetr.engine.parameter_groups",
    "samdetr.modeling.mini_resnet",
    "samdetr.modeling.resnet50_dc5_stages",
    "detectron2.data.build_detection_test_loader",
    "detectron2.data.samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency",
    "detectron2.modeling.ResNet.make_default_stages",
    "detectron2.modeling.ResNet.make_stage",
    "detectron2.solver.build.get_default_optimizer_params",
)
# A `${` may only start a reference to another key: resolvers such as ${oc.env:HOME} run code.
PLAIN_TEXT = re.compile(r"([^$]|\$(?!\{)|\$\{\.*\w+(\.\w+)*\})*")
HINT = " (--trusted-config, or `trusted` in Python, allows it if you trust the author)"


def read_yaml(path: str) -> DictConfig:
    """Read a YAML config of an author who is not trusted.

    Raises:
        ConfigError: if it holds a tag, a resolver or a `_target_` outside the allow-list.
    """
    with PathManager.open(path) as file:
        content = yaml.load(file, ConfigLoader)
    if not isinstance(content, dict):
        raise ConfigError(f"--config-file {path} cannot be read: expected keys and values")
    try:
        _check(content, "")
        return OmegaConf.create(content, flags={"allow_objects": True})
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(f"--config-file {path}: {error}") from error


def find(name: Any) -> Any:
    """Return the class or function of that name; raise ConfigError unless YAML may call it."""
    if not isinstance(name, str) or not name.startswith(PACKAGES):
        raise ConfigError(f"{name!r} is not in {', '.join(PACKAGES)}{HINT}")
    try:
        found = locate(name)
    except Exception as error:  # whatever an import raises
        raise ConfigError(f"{name!r} cannot be found: {error}") from error
    # `samdetr.data.loader.os.system` is reachable too: the object's own module decides.
    own = f"{getattr(found, '__module__', '')}."
    part = inspect.isclass(found) and own.startswith(PACKAGES) and not own.startswith(UNSAFE)
    if not part and found not in map(locate, FUNCTIONS):
        raise ConfigError(f"{name!r} is not among the parts that a YAML config may call{HINT}")
    return found


def _check(value: Any, key: str) -> None:
    """Check every text and every call below a key."""
    if isinstance(value, str) and not PLAIN_TEXT.fullmatch(value):
        raise ConfigError(f"{key} is {value!r}: `${{` may only start a reference, ${{key}}{HINT}")
    if isinstance(value, dict):
        if "_target_" in value:
            find(value["_target_"])
        # Detectron2's configurable functions read proposal files, which are pickles, from a `cfg`.
        if "_target_" in value and "cfg" in value:
            raise ConfigError(f"{key}.cfg: a call in YAML cannot be given a whole config{HINT}")
    if isinstance(value, dict | list | tuple | set):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check(item, f"{key}.{name}".lstrip("."))


class ConfigLoader(yaml.SafeLoader):
    """Loader for plain data and the tags that Detectron2 writes: tuples, classes, `ShapeSpec`."""


def _named(loader: ConfigLoader, name: str, node: yaml.Node) -> Any:
    if not inspect.isclass(found := find(name)):  # its caller's arguments would be unchecked
        raise ConfigError(f"{name!r} is a function, and only a class can be a value{HINT}")
    return found


PYTHON = "tag:yaml.org,2002:python/"
ConfigLoader.add_multi_constructor(f"{PYTHON}name:", _named)
ConfigLoader.add_constructor(
    f"{PYTHON}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)
ConfigLoader.add_constructor(
    f"{PYTHON}object:{ShapeSpec.__module__}.{ShapeSpec.__qualname__}",
    lambda loader, node: ShapeSpec(**loader.construct_mapping(node, deep=True)),
)
