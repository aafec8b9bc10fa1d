"""The worked example of docs/adding_a_variant.md runs as it stands there."""

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate

from conftest import assert_gradients_reach_all, make_batch
from samdetr.engine import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/adding_a_variant.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.M | re.S))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The repository's configs with the files of the page beside them."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "tests").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "tests")
    yield tmp_path
    for name in ("laplace", "test_laplace"):
        sys.modules.pop(name, None)


def test_the_config_of_the_page_builds_trains_and_survives_yaml(folder):
    (config,) = re.findall(r"train_net\.py --config-file (\S+)", PAGE)
    cfg = load_config(str(folder / config))
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    assert "laplace.LaplacePrior" in (folder / "config.yaml").read_text()
    cfg = load_config(str(folder / "config.yaml"), trusted=True)  # to call the page's own module

    model = instantiate(cfg.model).train()
    losses = model(make_batch())
    sum(losses.values()).backward()

    priors = [x.cross_attention.prior for x in model.decoder.layers]
    assert [type(x).__name__ for x in priors] == ["LaplacePrior"] * 3
    for prior in priors:
        assert_gradients_reach_all(prior)


def test_the_test_of_the_page_passes(folder):
    module = importlib.import_module("test_laplace")
    tests = [x for name, x in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 1
    for test in tests:
        test()
