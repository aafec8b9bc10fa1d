"""Images of any number of channels: read, trained on, and detected in."""

import numpy as np
import pytest
import tifffile
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image
from torch.testing import assert_close

from samdetr import Predictor
from samdetr.checkpoint import InitialCheckpointer
from samdetr.data import DetectionMapper, read_bands
from samdetr.data.bands import composite, image_size
from samdetr.engine import load_config
from samdetr.errors import ImageError

CONFIG = "mini/sam_detr_smca"


def channels(count, height=16, width=20):
    """An (H, W, C) uint8 image, different in every channel."""
    return np.random.default_rng(count).integers(0, 256, (height, width, count), dtype=np.uint8)


def save(folder, image, suffix):
    path = folder / f"image{suffix}"
    if suffix == ".npy":
        np.save(path, image)
    elif image.shape[-1] == 1:
        Image.fromarray(image[..., 0]).save(path)
    elif suffix in (".tif", ".tiff"):  # pages of rows, as written without options, or bands
        planes = {"planarconfig": "contig"} if suffix == ".tiff" else {}
        tifffile.imwrite(path, image, photometric="minisblack", **planes)
    else:
        Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize(
    ("count", "suffix"),
    [
        (1, ".png"),
        (1, ".tif"),
        (3, ".png"),
        (4, ".png"),
        (2, ".npy"),
        (5, ".tif"),
        (5, ".tiff"),
        (7, ".npy"),
    ],
)
def test_channels_are_those_that_are_stored(tmp_path, count, suffix):
    image = channels(count)
    found = read_bands(path := save(tmp_path, image, suffix))
    assert found.dtype == np.uint8 and np.array_equal(found, image)
    assert image_size(path) == (20, 16)


def test_channels_may_come_first(tmp_path):
    image = channels(4)
    path = save(tmp_path, image.transpose(2, 0, 1), ".npy")
    assert np.array_equal(read_bands(path), image)
    assert image_size(path) == (20, 16)


@pytest.mark.parametrize(("dtype", "white"), [("uint16", None), ("uint16", 4095), ("float32", 1)])
def test_other_depths_are_scaled_by_white(tmp_path, dtype, white):
    image = channels(4).astype(dtype)
    found = read_bands(save(tmp_path, image, ".npy"), white)
    assert found.dtype == np.float32
    expected = image.clip(0, white or 65535) * (255 / (white or 65535))
    assert np.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4, 5)), np.zeros((4, 4, 2)), np.zeros(0)])
def test_what_is_no_image_or_has_no_white_is_refused_by_name(tmp_path, image):
    np.save(tmp_path / "x.npy", image)
    with pytest.raises(ImageError, match=r"x\.npy"):
        read_bands(tmp_path / "x.npy")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_composite_has_the_first_channels_or_the_only_one(count):
    image = channels(count)
    chosen = {1: (0, 0, 0), 2: (0, 0, 0)}.get(count, (0, 1, 2))
    assert np.array_equal(composite(image), image[..., list(chosen)])


def with_channels(count, *overrides):
    numbers = [f"model.pixel_{x}={[value] * count}" for x, value in (("mean", 100), ("std", 50))]
    return load_config("configs/mini/sam_detr_smca.py", [*numbers, *overrides])


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.mark.parametrize(("count", "read_as"), [(1, "L"), (3, "RGB"), (4, "BANDS"), (6, "BANDS")])
def test_backbone_and_mappers_follow_the_means(tmp_path, count, read_as):
    cfg = with_channels(count)
    for part in ("train", "test"):
        assert cfg.dataloader[part].mapper.image_format == read_as
    assert instantiate(cfg.model).backbone.stem.conv1.weight.shape[1] == count
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))
    assert instantiate(saved.model).backbone.stem.conv1.weight.shape[1] == count
    assert saved.dataloader.test.mapper.image_format == read_as


@pytest.mark.parametrize("name", ["sam_detr_r50_smca_12ep", "sam_detr_pp_swin_t_smca_dn_12ep"])
def test_configs_of_full_size_follow_too(name):
    overrides = ["model.pixel_mean=[1,2,3,4]", "model.pixel_std=[1,1,1,1]"]
    cfg = load_config(f"configs/coco/{name}.py", overrides)
    node = cfg.model.backbone.get("stem", cfg.model.backbone)
    assert node.get("in_channels", node.get("in_chans")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_detector_of_any_channels_trains_and_detects(tmp_path, count):
    cfg = with_channels(count, "train.device=cpu")
    path = save(tmp_path, channels(count, 40, 60), ".npy" if count > 1 else ".png")
    record = {"file_name": str(path), "width": 60, "height": 40}
    box = {"bbox": [5, 5, 20, 20], "bbox_mode": 0, "category_id": 1}
    cfg.dataloader.train.mapper.augmentations.pop(-1)
    sample = instantiate(cfg.dataloader.train.mapper)({**record, "annotations": [box]})
    assert sample["image"].shape[0] == count
    model = instantiate(cfg.model)
    sum(model([sample]).values()).backward()
    assert model.backbone.stem.conv1.weight.grad.abs().sum() > 0
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")

    predictor = Predictor(cfg, tmp_path / "model.pth", threshold=0.0)
    (by_file,) = predictor.stream([path])
    assert by_file.image.shape == (40, 60, 3) and len(by_file.instances) == 100
    pixels = channels(count, 40, 60)
    by_array = predictor(pixels if count > 1 else pixels[..., 0])
    assert_close(by_array.pred_boxes.tensor, by_file.instances.pred_boxes.tensor)


def test_an_image_of_other_channels_is_refused_by_name(tmp_path):
    model = instantiate(with_channels(4).model)
    image = {"image": torch.zeros(1, 40, 40), "file_name": "grey.png"}
    with pytest.raises(ValueError, match=r"grey\.png has 1 channels"):
        model.eval()([image])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_the_stem_of_three_channels_is_adapted(tmp_path, count, caplog):
    source = instantiate(with_channels(3).model)
    model = instantiate(with_channels(count).model)
    torch.save({"model": source.state_dict()}, tmp_path / "model.pth")
    with caplog.at_level("INFO"):
        InitialCheckpointer(model).load(str(tmp_path / "model.pth"))
    old, new = (x.backbone.stem.conv1.weight.detach() for x in (source, model))
    if count == 1:
        assert_close(new, old.sum(1, keepdim=True))
    else:
        expected = [old[:, i % 3] * 3 / count for i in range(count)]
        assert_close(new, torch.stack(expected, 1))
    assert f"3 to {count} channels" in caplog.text
    assert_close(model.encoder.state_dict(), source.encoder.state_dict())


def test_a_mapper_reads_grey_from_colours(tmp_path):
    image = channels(3)
    mapper = DetectionMapper(is_train=False, augmentations=[], image_format="L")
    path = save(tmp_path, image, ".png")
    found = mapper({"file_name": str(path)})["image"]
    expected = np.asarray(Image.fromarray(image).convert("L"))
    assert np.array_equal(found[0], expected)
