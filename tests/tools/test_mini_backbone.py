"""The small backbone: its shape, its shipped weights, and the script that makes them."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from pretrain_mini_backbone import (
    CROP,
    DigitClassifier,
    PretrainingParameters,
    accuracy,
    digit_crops,
    load_classifier,
    pretrain,
    save_backbone,
)
from samdetr.data import mini_backbone_weights
from samdetr.modeling import mini_resnet

pytestmark = pytest.mark.slow

LEVELS = ["res2", "res3", "res4", "res5"]


class Holder(nn.Module):
    """Has the backbone where a detector has it, and something else beside it."""

    def __init__(self, **options):
        super().__init__()
        self.backbone = mini_resnet(**options)
        self.neck = nn.Conv2d(96, 8, 1)


def stored(path):
    return torch.load(path, weights_only=True)["model"]


def test_levels_have_the_strides_and_channels_they_say():
    backbone = mini_resnet(LEVELS)
    features = backbone(torch.zeros(2, 3, 96, 64))
    for (name, shape), stride in zip(backbone.output_shape().items(), (4, 8, 16, 32), strict=True):
        assert shape.stride == stride
        assert features[name].shape == (2, shape.channels, 96 // stride, 64 // stride)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_the_checkpointer_puts_every_shipped_weight_into_a_detector(norm):
    detector = Holder(out_features=LEVELS, norm=norm)
    neck = detector.neck.weight.clone()
    DetectionCheckpointer(detector).load(mini_backbone_weights())
    loaded = detector.backbone.state_dict()
    expected = stored(mini_backbone_weights())
    assert {name for name in loaded if "num_batches" not in name} == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loaded[name], value.float(), rtol=0, atol=0)
    torch.testing.assert_close(detector.neck.weight, neck, rtol=0, atol=0)


def test_the_shipped_file_is_small_and_knows_unseen_digits():
    assert Path(mini_backbone_weights()).stat().st_size <= 2_000_000
    measured = accuracy(load_classifier(mini_backbone_weights()), digit_crops(CROP, "val", 600))
    # On 2,000 crops 96.6 % and 95.5 %; on 600 the standard error is 0.8 %.
    assert measured["res3"] > 0.935 and measured["res5"] > 0.925


def test_saving_and_loading_keep_the_answers(tmp_path):
    torch.manual_seed(0)
    classifier = DigitClassifier()
    images = torch.rand(8, 3, 64, 64) * 255
    classifier.train()(images)  # moves the statistics of the norms away from their start
    save_backbone(classifier.eval(), tmp_path / "backbone.pth")
    with torch.no_grad():
        expected, answers = classifier(images), load_classifier(tmp_path / "backbone.pth")(images)
    for one, other in zip(expected, answers, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)  # half precision
        assert not torch.equal(one, torch.zeros_like(one))


def test_pretraining_is_repeatable():
    crops = digit_crops(CROP, "train", 24)
    parameters = PretrainingParameters(epochs=2, batch_size=16)
    one, other = (pretrain(crops, parameters, report=lambda line: None) for _ in range(2))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)


def test_the_script_learns_from_scratch_and_writes_a_file_that_loads(tmp_path, monkeypatch, capsys):
    import pretrain_mini_backbone

    file = tmp_path / "backbone.pth"
    # Larger digits on smaller crops are learnt within seconds.
    pretrain_mini_backbone.main(
        [f"--output={file}", "--crops=550", "--held-out=200", "--epochs=4", "--batch-size=8"]
        + ["--learning-rate=1e-3", "--size=40", "--min-height=26", "--max-height=32"]
    )
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 and printed[-1].startswith(f"{file}: held-out accuracy")
    percents = [float(word.rstrip("%")) for word in printed[-1].split() if word.endswith("%")]
    assert min(percents) > 20  # chance is 10, the standard error 2

    detector = Holder(out_features=LEVELS)
    DetectionCheckpointer(detector).load(str(file))
    for name, value in detector.backbone.state_dict().items():
        torch.testing.assert_close(value, stored(file)[name].float(), rtol=0, atol=0)
