"""The small data set on the disk: made once, whole or not at all, in valid COCO format."""

import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from coco_files import Registry
from samdetr.data import load_detection_dataset, mini, mini_folder

COUNTS = {"train": 6, "val": 4}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and `mini` of ten images."""
    monkeypatch.setenv("SAMDETR_CACHE", str(tmp_path / "cache"))
    for split, count in COUNTS.items():
        monkeypatch.setitem(mini.MINI_COUNTS, split, count)
    return tmp_path / "cache"


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def in_processes(function, number):
    """Runs a function in processes that start together; returns their exit codes."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(number)
    processes = [context.Process(target=lambda: (start.wait(), function())) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_the_same_files_are_made_again(cache, tmp_path):
    first = contents(mini_folder())
    assert len(first) == sum(COUNTS.values()) + 2
    mini.write_mini(tmp_path / "again", mini.MINI_PARAMETERS, COUNTS)
    assert contents(tmp_path / "again") == first


def test_images_do_not_depend_on_how_many_there_are(tmp_path):
    mini.write_mini(tmp_path / "few", mini.MINI_PARAMETERS, {"val": 2})
    mini.write_mini(tmp_path / "more", mini.MINI_PARAMETERS, {"train": 1, "val": 4})
    few, more = contents(tmp_path / "few" / "val"), contents(tmp_path / "more" / "val")
    assert few == {name: more[name] for name in few}


def test_processes_that_ask_at_once_share_one_generation(cache, monkeypatch):
    log = cache.parent / "log"

    def write(folder, parameters, counts, original=mini.write_mini):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        original(folder, parameters, counts)

    monkeypatch.setattr(mini, "write_mini", write)
    assert in_processes(lambda: len(contents(mini_folder())) == 12 or os._exit(1), 3) == [0] * 3
    assert len(log.read_text().splitlines()) == 1


def test_what_a_killed_process_left_is_not_used(cache, monkeypatch):
    def die(folder, parameters, counts, original=mini.write_mini):
        original(folder, parameters, {"train": 1, "val": 0})
        (folder / "rubbish").write_text("")
        os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(mini, "write_mini", die)
        assert in_processes(mini_folder, 1) == [9]
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".partial"]

    folder = mini_folder()
    assert set(contents(folder)) == {"train.json", "val.json"} | {
        f"{split}/{index:06d}.jpg" for split, count in COUNTS.items() for index in range(count)
    }
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMDETR_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=rf"{tmp_path}/file/mini-.*SAMDETR_CACHE"):
        mini_folder()


@pytest.mark.parametrize("split", list(COUNTS))
def test_annotations_are_valid_coco(cache, split):
    folder = mini_folder()
    coco = COCO(folder / f"{split}.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == mini.MINI_CLASSES
    assert len(coco.imgs) == COUNTS[split] and len(coco.anns) >= COUNTS[split]
    for image in coco.imgs.values():
        assert Image.open(folder / split / image["file_name"]).size == (96, 96)
        assert len(coco.getAnnIds(imgIds=image["id"])) >= 1
    for annotation in coco.anns.values():
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= 96 and 0 <= y < y + height <= 96
        assert annotation["area"] == width * height
        assert annotation["category_id"] in coco.cats and annotation["image_id"] in coco.imgs


def test_the_tool_writes_a_set_that_can_be_registered(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import make_mini

    make_mini.main([str(tmp_path), "--train=2", "--val=1", "--size=64", "--max-objects=2"])
    registry = Registry()
    name = registry.add(str(tmp_path / "train.json"), str(tmp_path / "train"))
    try:
        records = load_detection_dataset(name, num_classes=10)
    finally:
        registry.clear()
    assert [(record["width"], record["height"]) for record in records] == [(64, 64)] * 2
