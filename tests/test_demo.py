"""demo.py draws and lists what the model detects, skips broken images and refuses bad options."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image
from pycocotools.coco import COCO

from command_line import run_script
from samdetr import model_zoo
from samdetr.data import example_image, mini_folder

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("demo_script", ROOT / "demo.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def main(*arguments):
    """Run demo.py in this process and return its exit code."""
    try:
        script.main([*map(str, arguments), "--device", "cpu"])
    except SystemExit as exit:
        return exit.code
    return 0


def pictures(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.open(example_image()).save(folder / name)
    return folder


def make_video(path, count=5, size=(64, 96), rate=10.0):
    """Write the example, cropped to (height, width) and darker from frame to frame."""
    image = cv2.imread(example_image())[: size[0], : size[1]]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size[::-1])
    for number in range(count):
        writer.write((image * (1 - 0.1 * number)).astype(np.uint8))
    writer.release()
    return path


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return np.stack(frames), capture.get(cv2.CAP_PROP_FPS)


def test_without_options_the_example_is_drawn_in_any_working_directory(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_script("demo.py") == 0
    assert capsys.readouterr().out == "3 detections in 1 images\n"
    (drawing,) = tmp_path.rglob("*.*")
    assert drawing == tmp_path / "output/detections/example.jpg"
    assert Image.open(drawing).size == (384, 384)


def test_results_on_a_data_set_equal_those_of_its_evaluation(tmp_path):
    folder = mini_folder()
    entries = json.loads((folder / "val.json").read_text())["images"][100:103]
    files = [folder / "val" / x["file_name"] for x in entries]
    results = tmp_path / "results.json"
    annotations = ("--annotations", folder / "val.json")

    code = main("--input", *reversed(files), *annotations, "--threshold", 0, "--json", results)

    assert code == 0 and [x.name for x in tmp_path.iterdir()] == ["results.json"]
    found = json.loads(results.read_text())
    mapper = instantiate(model_zoo.get_config("mini/sam_detr_smca").dataloader.test.mapper)
    model = model_zoo.get("mini/sam_detr_smca", device="cpu").eval()
    for entry, file in zip(entries, files):
        with torch.no_grad():
            (output,) = model([mapper({"file_name": str(file), "height": 96, "width": 96})])
        own = [x for x in found if x["image_id"] == entry["id"]]
        expected = output["instances"]
        assert len(own) == len(expected) == 100
        assert {x["file_name"] for x in own} == {str(file)}
        assert [x["category_id"] - 1 for x in own] == expected.pred_classes.tolist()
        np.testing.assert_allclose([x["score"] for x in own], expected.scores, rtol=1e-4)
        x0, y0, x1, y1 = expected.pred_boxes.tensor.unbind(1)
        box = torch.stack([x0, y0, x1 - x0, y1 - y0], dim=1)
        np.testing.assert_allclose([x["bbox"] for x in own], box, atol=1e-2)
    assert len(COCO(str(folder / "val.json")).loadRes(str(results)).anns) == 300


def test_broken_images_of_a_folder_are_skipped_and_listed_at_the_end(tmp_path, capsys):
    folder = pictures(tmp_path / "in", "a.png", "c.tif", "d.jpg")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:900])
    (folder / "link.png").symlink_to("nothing")
    output, results = tmp_path / "out", tmp_path / "new" / "results.json"

    code = main("--input", folder, "--output", output, "--json", results, "--batch-size", 2)

    captured = capsys.readouterr()
    assert code == 2 and "9 detections in 3 images" in captured.out
    assert "2 images could not be read:\n  cannot read image" in captured.err
    assert captured.err.count("cannot read image") == 2
    assert "b.png" in captured.err and "link.png" in captured.err
    assert sorted(x.name for x in output.iterdir()) == ["a.png", "c.tif.png", "d.jpg"]
    found = json.loads(results.read_text())
    # Without annotations, images are numbered and categories are those of the data set.
    names = [(x["image_id"], Path(x["file_name"]).name) for x in found[::3]]
    assert names == [(1, "a.png"), (3, "c.tif"), (4, "d.jpg")]
    assert sorted(x["category_id"] for x in found[:3]) == [1, 2, 4]  # the digits 0, 1 and 3


def test_a_video_becomes_a_video_with_boxes_and_numbered_frames(tmp_path):
    clip = make_video(tmp_path / "clip.mp4")
    folder = pictures(tmp_path / "in", "a.png")
    results = tmp_path / "r.json"
    arguments = ("--output", tmp_path / "out", "--json", results, "--threshold", 0.3)

    assert main("--input", folder, clip, *arguments) == 0

    frames, rate = read_video(tmp_path / "out" / "clip.mp4")
    before, _ = read_video(clip)
    assert frames.shape == before.shape == (5, 64, 96, 3) and rate == 10
    assert (np.abs(frames.astype(int) - before).max(axis=(1, 2, 3)) > 60).any()  # boxes
    assert np.abs(frames.astype(int) - before)[:, :10].mean() < 10  # where there is nothing
    found = [x for x in json.loads(results.read_text()) if "frame" in x]
    assert found and {x["file_name"] for x in found} == {str(clip)}
    assert all(x["image_id"] == x["frame"] + 1 for x in found)
    assert {x["frame"] for x in found} <= set(range(1, 6))


class Camera:
    """Stands in for `cv2.VideoCapture`: camera 1 delivers three frames, others do not exist."""

    def __init__(self, number):
        self.number = number
        self.frames = [cv2.imread(example_image())] * 3

    def isOpened(self):
        return self.number == 1

    def get(self, _):
        return 0.0

    def read(self):
        return (True, self.frames.pop()) if self.frames else (False, None)

    def release(self):
        self.frames = None


def test_a_camera_is_written_to_a_file(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(cv2, "VideoCapture", Camera)
        code = main("--webcam", 1, "--output", tmp_path / "seen.avi", "--json", tmp_path / "r.json")
    assert code == 0 and "in 3 images" in capsys.readouterr().out
    frames, rate = read_video(tmp_path / "seen.avi")
    assert frames.shape == (3, 96, 96, 3) and rate == 25
    found = json.loads((tmp_path / "r.json").read_text())
    assert {(x["image_id"], x["file_name"]) for x in found} == {(i, "camera 1") for i in (1, 2, 3)}


def test_a_camera_is_shown_until_escape(monkeypatch):
    shown = []
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, frame: shown.append(frame))
    monkeypatch.setattr(cv2, "waitKey", lambda _: -1 if len(shown) < 2 else 27)
    monkeypatch.setattr(cv2, "destroyWindow", lambda _: shown.append("closed"))
    assert main("--webcam", 1) == 0
    assert len(shown) == 3 and shown[-1] == "closed"
    original = cv2.imread(example_image())
    assert np.abs(shown[0].astype(int) - original)[:20].max() <= 2  # BGR, as OpenCV shows it


def test_a_missing_camera_and_a_missing_screen_are_errors(monkeypatch, capsys):
    def refuse(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    for arguments, said in ((["--webcam"], "there is no camera 0"), (["--webcam", 1], "--output")):
        assert main(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "missing.jpg"], "missing.jpg"),
        (["--input", "empty"], "no file in folder empty or below"),
        (["--input", "*.webp"], "no file matches *.webp"),
        (["--input", "in", "--output", "file/sub"], "file/sub: Not a directory"),
        (["--input", "in", "--json", "empty"], "empty: Is a directory"),
        (["--input", "in", "--output", "one.png"], "one.png must be a folder"),
        (["--input", "in/a.png", "--output", "a.mp4"], "a.mp4 must be a folder"),
        (["--input", "in", "--output", "in"], "in/a.png would be overwritten"),
        (["--input", "in", "--dtype", "int8"], "dtype is int8, expected one of float32"),
        (["--input", "both/a.tif", "both/a.tif.png"], "a.tif.png would be overwritten"),
        (["--input", "file.mp4"], "OpenCV reads no video in file.mp4"),
        (["--input", "in", "--annotations", "file"], "file cannot be read as JSON"),
        (["--input", "in", "--annotations", "c.json"], "c.json has no image for in/b.png"),
        (["--input", "in/a.png", "--annotations", "c.json"], "no category '0'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures(Path("in"), "a.png", "b.png")
    pictures(Path("both"), "a.tif", "a.tif.png")
    Path("empty").mkdir()
    Path("file").write_text("text")
    shutil.copy("file", "file.mp4")
    coco = {"images": [{"id": 1, "file_name": "x/a.png"}], "categories": [{"id": 1, "name": "1"}]}
    Path("c.json").write_text(json.dumps(coco))

    assert main(*arguments) == 2

    lines = [x for x in capsys.readouterr().err.splitlines() if not x.endswith("?image/s]")]
    assert len(lines) == 1 and said in lines[0], lines
