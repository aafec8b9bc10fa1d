"""Inputs that people have: harmless ones are taken, and what changes a result is said."""

import json
import re
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from test_own_data import forget  # noqa: F401  # a fixture

from command_line import train_net
from samdetr.engine import configure, parse_arguments
from samdetr.metadata import metadata_of

ROOT = Path(__file__).parents[2]
INPUTS = Path(__file__).with_name("inputs")
MINI = ["--config-file", str(ROOT / "configs/mini/sam_detr_smca.py")]
SHORT = ["train.max_iter=1", "dataloader.train.total_batch_size=2", "train.eval_period=0"]
SHORT += ["dataloader.train.num_workers=0", "train.device=cpu"]
SHORT += ["model.decoder.levels=[0]", "model.encoder.num_layers=1"]


def files(json_file, images=INPUTS / "images", parts=("train", "val")):
    names = [(f"--{part}-json", json_file, f"--{part}-images", images) for part in parts]
    return [str(x) for part in names for x in part]


def run(folder, *arguments):
    """Exit code of a short training, and all that it has logged."""
    code = train_net(*MINI, *arguments, *SHORT, f"train.output_dir={folder}")
    log = Path(folder, "log.txt")
    return code, log.read_text() if log.is_file() else ""


def config(*arguments):
    return configure(parse_arguments([*MINI, *arguments]))


def changed(folder, **fields):
    """plain.json with other fields in every annotation."""
    contents = json.loads((INPUTS / "plain.json").read_text())
    for entry in contents["annotations"]:
        entry.update(fields)
    (folder / "changed.json").write_text(json.dumps(contents))
    return folder / "changed.json"


def loaded(cfg, part="train"):
    return [
        (x["file_name"], x["image_id"], x["annotations"])
        for x in instantiate(cfg.dataloader[part].dataset)
    ]


@pytest.mark.parametrize("name", ["null_fields", "empty"])
def test_null_and_empty_are_absent(tmp_path, name):
    empty = {"iscrowd": "", "segmentation": [], "keypoints": [], "area": ""}
    file = changed(tmp_path, **empty) if name == "empty" else INPUTS / f"{name}.json"
    assert loaded(config(*files(file))) == loaded(config(*files(INPUTS / "plain.json")))


@pytest.mark.parametrize("field", ["iscrowd", "ignore"])
def test_crowds_alone_are_an_error_before_the_first_step(tmp_path, capsys, field):
    file = INPUTS / "all_crowd.json" if field == "iscrowd" else changed(tmp_path, ignore=True)
    code, _ = run(tmp_path / "run", *files(file))
    assert code == 2
    assert "20 of 20 boxes" in (message := capsys.readouterr().err) and "20 crowds" in message


def test_some_crowds_are_counted(tmp_path):
    code, log = run(tmp_path, *files(INPUTS / "half_crowd.json", parts=["train"]))
    assert code == 0
    assert len(re.findall("10 of 20 boxes .*'own_train' are not trained on, 10 crowds", log)) == 1


def test_more_boxes_than_queries_are_counted(tmp_path):
    arguments = files(INPUTS / "400_boxes.json")
    code, log = run(tmp_path, *arguments)
    assert code == 0
    for part in ("own_train", "own_val"):
        (line,) = re.findall(f".*'{part}' have more boxes than model.num_queries.*", log)
        assert "1 of 8 images" in line and "model.num_queries=30, up to 4" in line
    assert "more boxes than model.detections_per_image=100, up to 4" in log


def test_one_box_may_have_two_classes(tmp_path):
    records = instantiate(
        config(*files(INPUTS / "same_box_two_classes.json")).dataloader.train.dataset
    )
    assert sum(len(x["annotations"]) for x in records) == 40


def test_areas_that_contradict_the_boxes_are_counted(tmp_path):
    code, log = run(tmp_path / "run", *files(changed(tmp_path, area=9999), parts=["train"]))
    assert code == 0
    assert "'own_train': 20 values of `area`" in log


def test_a_class_without_a_box_is_named(tmp_path):
    contents = json.loads((INPUTS / "plain.json").read_text())
    contents["categories"].insert(0, {"id": 0, "name": "digits", "supercategory": "none"})
    (tmp_path / "root.json").write_text(json.dumps(contents))
    code, log = run(tmp_path / "run", *files(tmp_path / "root.json", parts=["train"]))
    assert code == 0
    assert re.search("of 11 classes have no box in data set 'own_train': 'digits'", log)


def test_names_and_ids_are_kept_where_the_annotations_are_gone(tmp_path):
    shutil.copy(INPUTS / "ids_5_9.json", tmp_path / "gone.json")
    cfg = config(*files(tmp_path / "gone.json"))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    (tmp_path / "gone.json").unlink()
    metadata = metadata_of(LazyConfig.load(str(tmp_path / "config.yaml")))
    assert metadata.thing_classes == ["odd", "even"]
    assert metadata.thing_dataset_id_to_contiguous_id == {5: 0, 9: 1}


@pytest.mark.slow
def test_ids_of_images_may_be_text(tmp_path):
    code, _ = run(tmp_path, *files(INPUTS / "text_ids.json"))
    assert code == 0
    ids = [image_id for _, image_id, _ in loaded(config(*files(INPUTS / "text_ids.json")))]
    assert ids == [f"IMG-{i:03}" for i in range(1, 9)]


@pytest.mark.slow
def test_without_data_to_evaluate_on_the_last_checkpoint_is_the_result(tmp_path):
    code, log = run(tmp_path, *files(INPUTS / "plain.json", parts=["train"]))
    assert code == 0
    assert log.count("no data to evaluate on") == 1
    assert (tmp_path / "model_final.pth").is_file() and not (tmp_path / "model_best.pth").exists()
    assert train_net("--config-file", tmp_path / "config.yaml", "--resume", *SHORT) == 0
    evaluation = ["--config-file", tmp_path / "config.yaml", "--eval-only"]
    evaluation += [f"train.init_checkpoint={tmp_path}/model_final.pth"]
    assert train_net(*evaluation) == 2
    assert (
        train_net(*evaluation[:3], *files(INPUTS / "plain.json", parts=["val"]), evaluation[3]) == 0
    )


@pytest.mark.parametrize("what", ["yolo/data.yaml", "yolo"])
def test_a_yolo_data_set_trains_and_is_evaluated(tmp_path, what):
    code, log = run(tmp_path, "--data", str(INPUTS / what))
    assert code == 0
    assert "'own_train' is YoloFiles(" in log
    assert "'own_train': 4 images, 5 boxes, 10 classes" in log and "'own_val': 4 images, 10" in log
    assert "bbox/AP" in (tmp_path / "metrics.json").read_text()
    (polygon,) = instantiate(
        LazyConfig.load(str(tmp_path / "config.yaml")).dataloader.train.dataset
    )[1]["annotations"]
    assert polygon["bbox"] == pytest.approx([46, 15, 67, 49], abs=0.01)


def test_an_override_may_stand_behind_files(tmp_path):
    arguments = ["--train-json", INPUTS / "plain.json", "train.seed=3", "--train-images"]
    cfg = config(*map(str, arguments), str(INPUTS / "images"), "train.max_iter=7")
    assert (cfg.train.seed, cfg.train.max_iter) == (3, 7)


def test_validation_categories_that_the_file_lacks_are_measured_too(tmp_path):
    contents = json.loads((INPUTS / "plain.json").read_text())
    contents["annotations"] = [x for x in contents["annotations"] if x["category_id"] < 6]
    contents["categories"] = contents["categories"][4::-1]
    (tmp_path / "fewer.json").write_text(json.dumps(contents))
    arguments = files(INPUTS / "plain.json", parts=["train"])
    code, _ = run(tmp_path, *arguments, *files(tmp_path / "fewer.json", parts=["val"]))
    assert code == 0
    assert len(MetadataCatalog.get("own_val").thing_classes) == 10
