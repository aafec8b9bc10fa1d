"""demo.py searches folders, mirrors them, and names images and categories as annotations do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from samdetr.data.own import YoloFiles
from samdetr.errors import InputError
from samdetr.predictor import image_files
from test_demo import main, script

INPUTS = Path(__file__).parent / "data/inputs"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with the images in/left/0.png and in/right/0.png."""
    for side in ("left", "right"):
        Path(tmp_path, "in", side).mkdir(parents=True)
        shutil.copy(INPUTS / "subfolders" / side / "0.png", tmp_path / "in" / side)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def detected(*arguments):
    assert main(*arguments, "--json", "r.json") == 0
    return json.loads(Path("r.json").read_text())


def ids(*names, inputs=("in",)):
    """The id, from 1, of the name that each image below the inputs is matched with."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(names, 1)]
    content = {"images": images, "categories": [{"id": 1, "name": "a"}]}
    Path("c.json").write_text(json.dumps(content))
    found, _ = script.read_annotations(Path("c.json"), image_files(inputs))
    return {path.as_posix(): number for path, number in found.items()}


@pytest.mark.parametrize(
    ("images", "annotations"), [("images", "text_ids.json"), ("subfolders", "subfolders.json")]
)
def test_results_have_the_ids_of_their_images(images, annotations):
    arguments = ("--input", INPUTS / images, "--annotations", INPUTS / annotations)
    results = detected(*arguments, "--threshold", 0.1)
    entries = json.loads((INPUTS / annotations).read_text())["images"]
    names = {entry["id"]: entry["file_name"] for entry in entries}
    assert {x["image_id"] for x in results} == set(names) and len(names) == 8
    for result in results:
        assert result["file_name"] == str(INPUTS / images / names[result["image_id"]])


def test_categories_have_the_ids_of_the_file():
    results = detected(
        *("--input", INPUTS / "images/000000.png", "--annotations", INPUTS / "ids_5_9.json"),
        *("--checkpoint", "", "--threshold", 0, "--opts", "model.num_classes=2"),
        "+dataloader.test.dataset.classes=[even,odd]",
    )
    assert {x["category_id"] for x in results} == {5, 9}


@pytest.mark.parametrize("what", ["yolo", "yolo/data.yaml"])
def test_a_data_set_of_another_format_serves_as_annotations(what):
    files = image_files([INPUTS / "yolo/images/val"])
    found, categories = script.read_annotations(INPUTS / what, files)
    records = YoloFiles(str(INPUTS / "yolo/data.yaml"), "val").read().records
    expected = {Path(x["file_name"]).name: x["image_id"] for x in records}
    assert {path.name: number for path, number in found.items()} == expected and len(expected) == 4
    assert set(categories) == {str(digit) for digit in range(10)}


@pytest.mark.parametrize(
    "pattern",
    ["{}/0.png", "./{}//0.png", "{}\\0.png", "C:\\data\\in\\{}\\0.png", "/data/../x/{}/0.png"],
)
def test_paths_of_any_system_are_matched_by_their_longest_end(pattern):
    expected = {"in/left/0.png": 2, "in/right/0.png": 1}
    assert ids(pattern.format("right"), pattern.format("left")) == expected
    assert ids("left/0.png", inputs=["in/left"]) == ids("0.png", inputs=["in/left"])


def test_an_entry_with_fewer_folders_is_that_of_the_upper_folder():
    shutil.copy("in/left/0.png", "in/0.png")
    expected = {"in/0.png": 3, "in/left/0.png": 1, "in/right/0.png": 2}
    assert ids("left/0.png", "right/0.png", "0.png") == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0.png"], "c.json has 0.png for both in/left/0.png and in/right/0.png"),
        (["left/0.png", "a/0.png", "b/0.png"], "has left/0.png, a/0.png, b/0.png for in/right/0"),
        (["left/0.png", "right/0.png", "right/0.png"], "right/0.png, right/0.png for in/right"),
        (["left/0.png", "right/1.png"], "c.json has left/0.png for both"),
        (["left/1.png", None], "c.json has no image for in/left/0.png"),
    ],
)
def test_what_may_be_another_image_is_refused(names, said):
    with pytest.raises(InputError) as error:
        ids(*names)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["in"], ["left/0.png", "right/0.png"]),
        (["in/left", "in/right"], ["left/0.png", "right/0.png"]),
        (["in/*/0.png"], ["left/0.png", "right/0.png"]),
        (["in/left/0.png", "in"], ["left/0.png", "right/0.png"]),
        (["../{}/in/left", "in/left/../right/0.png"], ["left/0.png", "right/0.png"]),
        (["in/left"], ["0.png"]),
    ],
)
def test_drawings_of_equal_names_lie_in_folders_of_their_own(folder, inputs, expected):
    inputs = [x.format(folder.name) for x in inputs]
    arguments = ["--input", *inputs, "--output", "in/drawn"]
    for _ in range(2):  # drawings of the first time are no input of the second
        targets = script.make_plan(script.argument_parser().parse_args(arguments)).targets
        assert sorted(x.relative_to("in/drawn").as_posix() for x in targets.values()) == expected
        for image, drawing in targets.items():
            shutil.copy(image, drawing)


def test_links_are_followed_once_and_hidden_folders_are_not_searched():
    os.symlink(Path("in/left").absolute(), "in/right/link")
    os.symlink(Path("in").absolute(), "in/left/up")
    shutil.copytree("in/left", "in/.thumbnails", symlinks=True)
    found = [x.as_posix() for x in image_files(["in"])]
    assert found == ["in/left/0.png", "in/right/0.png", "in/right/link/0.png"]
