"""Data sets are recognised by what lies in a folder, and all formats give the same boxes."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from detectron2.config import instantiate
from PIL import Image
from test_own_data import forget  # noqa: F401  # a fixture

from samdetr.data import CocoFiles, ImageFolder, VocFolder, YoloFiles
from samdetr.data.own import read_sources, recognise
from samdetr.engine import ConfigError, configure, parse_arguments

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
INPUTS = Path(__file__).with_name("inputs")
PLAIN = json.loads((INPUTS / "plain.json").read_text())
NAMES = {x["id"]: x["name"] for x in PLAIN["categories"]}
PARTS = {"train": PLAIN["images"][:4], "val": PLAIN["images"][4:]}


def boxes(sources):
    """Class name and rounded corners of every box, by file name."""
    found = read_sources(sources)
    return {
        Path(record["file_name"]).name: Counter(
            (found.names[x["category_id"]], *corners(x["bbox"], x["bbox_mode"]))
            for x in record["annotations"]
        )
        for record in found.records
    }


def corners(box, mode):
    left, top, right, bottom = box
    return tuple(map(round, (left, top, right, bottom)))[: 4 if mode == 0 else 2] + (
        () if mode == 0 else (round(left + right), round(top + bottom))
    )


def expected(images):
    """The boxes of plain.json."""
    found = {x["file_name"]: Counter() for x in images}
    files = {x["id"]: x["file_name"] for x in images}
    for entry in PLAIN["annotations"]:
        if entry["image_id"] in files:
            box = corners(entry["bbox"], 1)
            found[files[entry["image_id"]]][(NAMES[entry["category_id"]], *box)] += 1
    return found


def copy_images(images, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        shutil.copy(INPUTS / "images" / image["file_name"], folder)


def part_of_coco(images):
    ids = {x["id"] for x in images}
    annotations = [x for x in PLAIN["annotations"] if x["image_id"] in ids]
    return json.dumps({**PLAIN, "images": images, "annotations": annotations})


def write_roboflow(folder):
    for part, images in zip(("train", "valid"), PARTS.values()):
        copy_images(images, folder / part)
        (folder / part / "_annotations.coco.json").write_text(part_of_coco(images))


def write_coco_layout(folder):
    for part, images in PARTS.items():
        copy_images(images, folder / f"{part}2017")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{part}2017.json").write_text(part_of_coco(images))
    (folder / "annotations/captions_train2017.json").write_text("{}")


def write_coco_in_images(folder):
    for part, images in PARTS.items():
        copy_images(images, folder / "images" / part)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/{part}.json").write_text(part_of_coco(images))


def write_voc(folder):
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for part, images in zip(("trainval", "test"), PARTS.values()):
        names = [Path(x["file_name"]).stem for x in images]
        (folder / f"ImageSets/Main/{part}.txt").write_text("\n".join(names))
        for image in images:
            stem = Path(image["file_name"]).stem
            Image.open(INPUTS / "images" / image["file_name"]).save(
                folder / f"JPEGImages/{stem}.png"
            )
            (folder / f"Annotations/{stem}.xml").write_text(voc_annotation(image))


def voc_annotation(image):
    objects = []
    for entry in (x for x in PLAIN["annotations"] if x["image_id"] == image["id"]):
        left, top, right, bottom = corners(entry["bbox"], 1)
        sides = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in sides.items())
        objects.append(
            f"<object><name>{NAMES[entry['category_id']]}</name><bndbox>{box}</bndbox></object>"
        )
    size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def write_image_folder(folder):
    for part, images in zip(("train", "validation"), PARTS.values()):
        copy_images(images, folder / part)
        lines = []
        for image in images:
            own = [x for x in PLAIN["annotations"] if x["image_id"] == image["id"]]
            objects = {
                "bbox": [x["bbox"] for x in own],
                "categories": [NAMES[x["category_id"]] for x in own],
            }
            lines.append(json.dumps({"file_name": image["file_name"], "objects": objects}))
        (folder / part / "metadata.jsonl").write_text("\n".join(lines))


def write_yolo(folder, polygons=False, **changes):
    for part, images in PARTS.items():
        copy_images(images, folder / "images" / part)
        labels = folder / "labels" / part
        labels.mkdir(parents=True)
        for image in images:
            lines = yolo_lines(image, polygons)
            if lines:
                (labels / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))
    content = {"train": "images/train", "val": "images/val", "names": list(NAMES.values())}
    (folder / "data.yaml").write_text(yaml.safe_dump({**content, **changes}))


def yolo_lines(image, polygons):
    scale = image["width"], image["height"]
    for entry in (x for x in PLAIN["annotations"] if x["image_id"] == image["id"]):
        left, top, width, height = entry["bbox"]
        numbers = [left + width / 2, top + height / 2, width, height]
        if polygons:
            right, bottom = left + width, top + height
            numbers = [left, top + height / 3, right, top, left + width / 2, bottom]
        index = [*NAMES].index(entry["category_id"])
        shares = (x / scale[place % 2] for place, x in enumerate(numbers))
        yield f"{index} " + " ".join(map(str, shares))


WRITERS = {
    "a Roboflow export in COCO's format": (write_roboflow, CocoFiles),
    "a folder in COCO's layout": (write_coco_layout, CocoFiles),
    "a folder in Pascal VOC's layout": (write_voc, VocFolder),
    "an image folder of Hugging Face": (write_image_folder, ImageFolder),
    "a YOLO data set": (write_yolo, YoloFiles),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_is_recognised_and_has_the_boxes(tmp_path, kind):
    write, source = WRITERS[kind]
    write(tmp_path)
    parts = recognise(str(tmp_path))
    for part, images in PARTS.items():
        assert isinstance(parts[part][0], source)
        assert boxes(parts[part]) == expected(images)


def test_coco_in_a_folder_of_images(tmp_path):
    write_coco_in_images(tmp_path)
    parts = recognise(str(tmp_path))
    assert {part: boxes(sources) for part, sources in parts.items()} == {
        part: expected(images) for part, images in PARTS.items()
    }


YOLO = {
    "names as a dict": {"names": dict(enumerate(NAMES.values()))},
    "a path that is not here": {"path": "/content/data", "train": "/content/data/images/train"},
    "Roboflow's way": {"train": "../images/train", "val": "../images/val"},
    "a list of folders": {"train": ["images/train"]},
    "a list of files": {"train": "train.txt"},
    "backslashes": {"train": "images\\train", "val": ".\\images\\val"},
    "polygons": {"polygons": True},
}


@pytest.mark.parametrize("changes", YOLO.values(), ids=YOLO)
def test_a_data_yaml_may_say_it_in_many_ways(tmp_path, changes):
    write_yolo(tmp_path, **changes)
    names = [x["file_name"] for x in PARTS["train"]]
    (tmp_path / "train.txt").write_text("".join(f"./images/train/{x}\n" for x in names))
    parts = recognise(str(tmp_path / "data.yaml"))
    for part, images in PARTS.items():
        assert boxes(parts[part]) == expected(images)


def test_labels_beside_the_images_and_files_without_objects(tmp_path):
    write_yolo(tmp_path)
    for part in PARTS:
        for file in (tmp_path / "labels" / part).iterdir():
            file.rename(tmp_path / "images" / part / file.name)
        (tmp_path / "images" / part).rename(tmp_path / part)
    emptied, missing = sorted((tmp_path / "train").glob("*.txt"))[:2]
    emptied.write_text("\n")
    missing.unlink()
    content = {"train": "train", "val": "val", "names": list(NAMES.values())}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))

    parts = recognise(str(tmp_path))

    wanted = expected(PARTS["train"])
    for file in (emptied, missing):
        wanted[f"{file.stem}.png"] = Counter()
    assert boxes(parts["train"]) == wanted


def test_a_folder_of_no_or_of_two_kinds_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is none of a YOLO data set, "):
        recognise(str(tmp_path))
    write_yolo(tmp_path)
    write_voc(tmp_path)
    with pytest.raises(ConfigError, match="is a YOLO data set and a folder in Pascal VOC's"):
        recognise(str(tmp_path))


def test_several_files_are_joined_by_the_names_of_their_classes(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(part_of_coco(PARTS["train"]))
    other = json.loads(part_of_coco(PARTS["val"]))
    for entry in other["categories"]:
        entry["id"] = 100 - entry["id"]
    for entry in other["annotations"]:
        entry["category_id"] = 100 - entry["category_id"]
    second.write_text(json.dumps(other))
    images = str(INPUTS / "images")
    sources = [CocoFiles(str(first), images), CocoFiles(str(second), images)]
    assert boxes(sources) == expected(PLAIN["images"])
    found = read_sources(sources)
    assert list(found.names.values()) == list(NAMES.values())
    assert [x["image_id"] for x in found.records] == list(range(1, 9))


def documented_options():
    """Options of each row of the first table in docs/own_data.md."""
    text = (ROOT / "docs/own_data.md").read_text()
    table = text[text.index("|---|---|") : text.index("\n\n", text.index("|---|---|"))]
    commands = [
        code for row in table.splitlines()[1:] for code in row.split("|")[2].split("`")[1::2]
    ]
    assert len(commands) == 12
    return commands


@pytest.mark.parametrize("command", documented_options())
def test_every_line_of_the_documented_table_is_taken(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PARTS, "train", PLAIN["images"])  # with all classes
    name = re.search(r"--(?:data|train-voc) (\w+)|", command)[1]
    if name in FOLDERS:
        FOLDERS[name](tmp_path / name)
    for part, images in zip(("train", "val", "a", "b"), [*PARTS.values()] * 2):
        copy_images(images, tmp_path / part)
        (tmp_path / f"{part}.json").write_text(part_of_coco(images))
    entries = {part: {"json": f"{part}.json", "images": part} for part in PARTS}
    (tmp_path / "mydata.yaml").write_text(yaml.safe_dump(entries))
    options = command.replace("=NAME", "=mini_val").split()

    cfg = configure(parse_arguments(["--config-file", str(MINI), *options]))

    dataset = cfg.dataloader.train.dataset
    assert cfg.model.num_classes == (9 if name in ("voc", "hf") else 10)
    if "classes" in dataset:
        assert len(instantiate(dataset)) == (12 if "b.json" in command else 8)
    assert (cfg.dataloader.evaluator is None) == ("val" not in command and "data" not in command)


FOLDERS = {
    "yolo": write_yolo,
    "roboflow": write_roboflow,
    "coco": write_coco_layout,
    "voc": write_voc,
    "hf": write_image_folder,
}
