"""Own data in one line: its classes reach the model, its keys the config, its faults the user."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from coco_files import SIZE, write_coco
from command_line import train_net
from samdetr.data import CocoFiles, DataError, VocFolder, load_own_dataset, own
from samdetr.engine import ConfigError, configure, load_config, parse_arguments
from samdetr.validation import evaluation_sets

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
GOOD = [5, 5, 10, 10]
CLASSES = ["cat", "dog", "newt"]


@pytest.fixture(autouse=True)
def forget():
    """Leave the catalogs as they were."""
    yield
    forget_all()


def forget_all():
    for name in own._registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    own._registered.clear()


def write(folder, ids=(90, 3, 17), names=("newt", "cat", "dog"), **changes):
    """A COCO file whose ids have gaps and no order; `changes` replace keys of the file."""
    images = [[{"bbox": GOOD, "category_id": ids[0]}, {"bbox": GOOD, "category_id": ids[1]}], []]
    json_file, image_root = write_coco(folder, images)
    contents = json.loads(Path(json_file).read_text())
    contents["categories"] = [{"id": i, "name": name} for i, name in zip(ids, names)]
    Path(json_file).write_text(json.dumps({**contents, **changes}))
    return CocoFiles(json_file, image_root)


def write_voc(folder, objects=("dog", "cat", "newt"), split="trainval"):
    """A Pascal VOC folder of two images, the second of them empty."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Main/{split}.txt").write_text("one\ntwo\n")
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    box = "<xmin>6</xmin><ymin>6</ymin><xmax>15</xmax><ymax>15</ymax>"
    for image, names in (("one", objects), ("two", ())):
        Image.new("RGB", SIZE).save(folder / f"JPEGImages/{image}.jpg")
        entries = (f"<object><name>{x}</name><bndbox>{box}</bndbox></object>" for x in names)
        text = f"<annotation>{size}{''.join(entries)}</annotation>"
        (folder / f"Annotations/{image}.xml").write_text(text)
    return VocFolder(str(folder), split)


def options(train=None, val=None):
    """The options of sources on the command line."""
    found = []
    for part, source in (("train", train), ("val", val)):
        if isinstance(source, CocoFiles):
            found += [f"--{part}-json", source.json_file, f"--{part}-images", source.image_root]
        elif source:
            found += [f"--{part}-voc", source.folder, source.split]
    return found


def config_of(*arguments, config=MINI):
    return configure(parse_arguments(["--config-file", str(config), *arguments]))


def classes_of(record, names):
    return [names[x["category_id"]] for x in record["annotations"]]


@pytest.mark.parametrize("writer", [write, write_voc])
def test_classes_follow_from_the_data_and_stay_in_the_saved_config(tmp_path, writer):
    train, val = writer(tmp_path / "train"), writer(tmp_path / "val")
    cfg = config_of(*options(train, val), "dataloader.train.num_workers=0")
    cfg.dataloader.train.total_batch_size = 2
    cfg.train.output_dir = str(tmp_path)
    assert cfg.model.num_classes == 3
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    forget_all()

    saved = load_config(str(tmp_path / "config.yaml"))

    evaluation = instantiate(saved.dataloader.test)
    evaluator = instantiate(saved.dataloader.evaluator)
    assert [len(x["annotations"]) for x in instantiate(saved.dataloader.test.dataset)] in (
        [2, 0],
        [3, 0],
    )
    batch = next(iter(instantiate(saved.dataloader.train)))
    assert {x["file_name"].split("/")[-3] for x in batch} == {"train"}
    assert len(evaluation) == 1
    assert MetadataCatalog.get("own_val").thing_classes == CLASSES
    assert list(saved.dataloader.test.dataset.classes) == CLASSES
    assert evaluator._metadata.name == "own_val"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("coco/sam_detr_pp_r50_smca_dn_12ep", "num_classes"),
        ("coco/faster_rcnn_r50_fpn_12ep", "roi_heads.num_classes"),
        ("lvis/sam_detr_r50_smca_12ep", "num_classes"),
        ("voc/sam_detr_pp_r50_smca_50ep", "num_classes"),
    ],
)
def test_own_data_starts_from_any_config(tmp_path, config, key):
    train, val = write(tmp_path / "train"), write_voc(tmp_path / "val")
    cfg = config_of(*options(train, val), config=ROOT / f"configs/{config}.py")
    found = cfg.model
    for name in key.split("."):
        found = found[name]
    assert found == 3
    assert cfg.dataloader.train.dataset.num_classes == cfg.dataloader.test.dataset.num_classes == 3
    assert cfg.dataloader.train.dataset.filter_empty == ("rcnn" in config)
    assert "DetectionEvaluator" in str(cfg.dataloader.evaluator._target_)
    assert cfg.dataloader.evaluator.dataset_name == "own_val"


def test_files_and_a_voc_folder_are_joined_by_their_classes(tmp_path):
    train, voc = write(tmp_path / "a", names=("newt", "cat", "fox")), write_voc(tmp_path / "b")
    dataset = config_of(*options(train), *options(voc)).dataloader.train.dataset
    assert list(dataset.classes) == ["cat", "fox", "newt", "dog"]
    records = instantiate(dataset)
    found = [classes_of(x, dataset.classes) for x in records]
    assert found == [["newt", "cat"], [], ["dog", "cat", "newt"], []]


@pytest.mark.parametrize("suffix", ["yaml", "py"])
def test_a_file_says_the_same_as_the_options_from_its_own_folder(tmp_path, suffix):
    train, val = write(tmp_path / "train"), write_voc(tmp_path / "val", split="2012")
    entries = {
        "train": {"images": "train/images", "json": "train/boxes.json"},
        "val": {"voc": "val", "split": "2012"},
    }
    file = tmp_path / f"data.{suffix}"
    lines = (f"{x} = {y!r}\n" if suffix == "py" else f"{x}: {y}\n" for x, y in entries.items())
    file.write_text("".join(lines))

    cfg = config_of("--data", str(file))

    expected = config_of(*options(train, val))
    for part in ("train", "test"):
        assert cfg.dataloader[part].dataset == expected.dataloader[part].dataset


def test_a_set_to_evaluate_on_must_have_the_classes_of_the_run(tmp_path):
    source = write(tmp_path / "train")
    LazyConfig.save(config_of(*options(source, source)), str(tmp_path / "config.yaml"))
    other = write(tmp_path / "other", ids=(1, 2, 3), names=("newt", "dog", "cat"))
    cfg = config_of(*options(val=other), config=tmp_path / "config.yaml")
    (first, _) = instantiate(cfg.dataloader.test.dataset)
    assert classes_of(first, CLASSES) == ["newt", "dog"]  # whatever their ids and order
    assert cfg.dataloader.test.dataset.category_ids == [3, 2, 1]
    fewer = write_voc(tmp_path / "fewer", objects=("newt",))
    cfg = config_of(*options(val=fewer), config=tmp_path / "config.yaml")
    assert cfg.dataloader.test.dataset.classes == CLASSES
    more = write_voc(tmp_path / "more", objects=("newt", "fox"))
    with pytest.raises(DataError, match="has the class 'fox', expected one of"):
        config_of(*options(val=more), config=tmp_path / "config.yaml")


def test_annotations_that_changed_after_the_config_are_an_error(tmp_path):
    source = write(tmp_path)
    cfg = config_of(*options(source, source))
    write(tmp_path, names=("newt", "fox", "dog"))
    with pytest.raises(DataError, match="'own_val': .* has the class 'fox', expected one of"):
        instantiate(cfg.dataloader.test.dataset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train-json", "a.json", "--val-json", "b.json"], r"--train-json \['a.json'\] .* exp"),
        (["--train-json", *"abc", "--train-images", *"de"], "expected files and one folder"),
        (["--data", "data.yaml", "--val-voc", ".", "test"], "exclude"),
        (["--data", "data.yaml"], r"data.yaml: val has {'json': 3}, expected json and images"),
        (["--data", "broken.yaml"], "(?s)broken.yaml: .*line 1"),
        (["--data", "list.yaml"], "list.yaml: expected `train` and `val`"),
        (["--data", "text.yaml"], "text.yaml: val has x, expected json and images"),
    ],
)
def test_options_that_cannot_work_are_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("data.yaml").write_text("val: {json: 3}")
    Path("broken.yaml").write_text("val: {json: [}")
    Path("list.yaml").write_text("[1, 2]")
    Path("text.yaml").write_text("val: x")
    with pytest.raises(ConfigError, match=message):
        config_of(*arguments)


def test_a_wrong_file_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "broken.json").write_text("a: [}")
    options = ["--val-json", tmp_path / "broken.json", "--val-images", tmp_path]

    assert train_net("--config-file", MINI, *options) == 2

    output = capsys.readouterr().err
    line = output.strip().splitlines()[-1]  # torch warns before it on a machine with half a CUDA
    assert "Traceback" not in output
    assert line.startswith(f"train_net.py: {tmp_path}/broken.json cannot be read as JSON: ")


def test_a_name_that_is_taken_is_refused_and_an_own_one_is_replaced(tmp_path):
    first, second = write(tmp_path / "first"), write(tmp_path / "second", names=("x", "y", "z"))
    with pytest.raises(AssertionError, match="'mini_val' is already registered"):
        load_own_dataset("mini_val", first, CLASSES)
    load_own_dataset("own_val", first, CLASSES)
    load_own_dataset("own_val", second, ["y", "z", "x"])
    assert MetadataCatalog.get("own_val").json_file == second.json_file


def test_the_command_line_adds_data_sets_by_the_names_of_their_folders(tmp_path):
    folders = [write_parts(tmp_path / name) for name in ("day", "night", "fog")]
    options = ["--data", folders[0], "--test", *folders[1:]]
    args = parse_arguments(["--config-file", str(MINI), *map(str, options)])
    cfg = configure(args)
    assert list(cfg.dataloader.more_tests) == ["night", "fog"]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))
    found = {name: x for name, x in evaluation_sets(saved)}
    for name, dataloader in found.items():
        records = instantiate(dataloader.test.dataset)
        assert {Path(x["file_name"]).parents[1].name for x in records} == {name or "day"}
        assert [x["category_id"] for r in records for x in r["annotations"]] == [1, 0]
    assert found["night"].evaluator.dataset_name == "own_night"
    assert found["night"].evaluator.output_dir.endswith("inference/night")


def write_parts(folder):
    """A Roboflow export, to train and to evaluate on."""
    for part in ("train", "valid"):
        folder.joinpath(part).mkdir(parents=True)
        file, images = write_coco(
            folder / "files",
            [[{"category_id": 2, "bbox": [5, 5, 9, 9]}, {"bbox": [1, 2, 8, 7]}], []],
        )
        shutil.copytree(images, folder / part, dirs_exist_ok=True)
        shutil.copy(file, folder / part / "_annotations.coco.json")
    shutil.rmtree(folder / "files")
    return folder


def test_two_folders_of_one_name_and_none_to_evaluate_on(tmp_path):
    one, other = (write_parts(tmp_path / name / "night") for name in ("a", "b"))
    args = ["--config-file", str(MINI), "--data", str(one), "--test", str(one), str(other)]
    with pytest.raises(ConfigError, match="night"):
        configure(parse_arguments(args))
    shutil.rmtree(one / "valid")
    cfg = configure(parse_arguments([*args[:5], str(other)]))
    assert cfg.dataloader.test.dataset.names == "own_val"  # there was none
    assert str(other) in str(cfg.dataloader.test.dataset.source)


def test_names_of_test_sets_may_have_dots(tmp_path):
    folders = [write_parts(tmp_path / name) for name in ("day.v1i.coco", "night.v2i.coco")]
    cfg = config_of("--data", str(folders[0]), "--test", str(folders[1]))
    assert list(cfg.dataloader.more_tests) == ["night.v2i.coco"]
    assert [name for name, _ in evaluation_sets(cfg)] == ["", "night.v2i.coco"]


def test_further_test_sets_do_not_decide_on_the_classes(tmp_path):
    with pytest.raises(ConfigError, match="--data"):
        config_of("--test", str(write_parts(tmp_path / "night")))


def test_data_replace_those_of_a_saved_config(tmp_path):
    LazyConfig.save(config_of(*options(write_voc(tmp_path / "one"))), str(tmp_path / "one.yaml"))
    other = write(tmp_path / "two")
    cfg = config_of(*options(other, other), config=tmp_path / "one.yaml")
    assert set(cfg.dataloader.train.dataset.source) == {"_target_", "json_file", "image_root"}
    assert len(instantiate(cfg.dataloader.train.dataset)) > 0
