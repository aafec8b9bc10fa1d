"""demo.py draws and lists what the model finds, past what is broken, and says what is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from samdetr import demo, model_zoo
from samdetr.data import example_image, mini_folder
from samdetr.demo import detect
from samdetr.demo import video as video_module
from samdetr.predictor import Prediction

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("demo_script", ROOT / "demo.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def main(*arguments):
    """Run the command in this process; returns its exit code."""
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
    """A video of the example, cropped to (height, width) and darker from frame to frame."""
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


@pytest.mark.slow
def test_it_works_at_once_and_from_another_folder(tmp_path):
    process = subprocess.run(
        [sys.executable, ROOT / "demo.py", "--input", example_image(), "--output", "out.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "3 detections in 1 images\n" and "1/1" in process.stderr
    assert Image.open(tmp_path / "out.png").size == (384, 384)
    assert [x.name for x in tmp_path.iterdir()] == ["out.png"]


def test_without_anything_the_picture_of_the_package_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main() == 0
    assert [x.name for x in tmp_path.rglob("*.*")] == ["example.jpg"]


def test_boxes_are_drawn_where_they_are():
    image = np.full((100, 400, 3), 127, np.uint8)
    instances = Instances(
        (100, 400),
        pred_boxes=Boxes(torch.tensor([[50.0, 40.0, 350.0, 90.0]])),
        scores=torch.tensor([0.8]),
        pred_classes=torch.tensor([1]),
    )
    for shrink, scale in ((1, 1), (4, 3.84)):  # the smaller one is enlarged to 384 pixels
        small = Instances((100, 400 // shrink), **instances.get_fields())
        small.pred_boxes = instances.pred_boxes.clone()
        small.pred_boxes.scale(1 / shrink, 1)
        drawn = demo.draw(
            Prediction(None, image[:, : 400 // shrink], small), Metadata(thing_classes=["a", "b"])
        )
        assert drawn.shape == (round(100 * scale), round(400 / shrink * scale), 3)
        marked = (drawn != 127).any(-1)
        (columns,) = marked.any(0).nonzero()
        (rows,) = marked[:, round(200 / shrink * scale)].nonzero()  # there the label has ended
        limits = [columns.min(), columns.max(), rows.min(), rows.max()]
        expected = [50 / shrink * scale, 350 / shrink * scale, 40 * scale, 90 * scale]
        np.testing.assert_allclose(limits, expected, atol=4)


def test_results_of_a_data_set_are_those_of_its_evaluation(tmp_path):
    folder = mini_folder()
    entries = json.loads((folder / "val.json").read_text())["images"][100:106]
    files = [folder / "val" / x["file_name"] for x in entries]
    results = tmp_path / "results.json"

    code = main(
        "--input",
        *reversed(files),
        *("--annotations", folder / "val.json", "--threshold", 0, "--json", results),
    )

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
    assert len(COCO(str(folder / "val.json")).loadRes(str(results)).anns) == 600


def test_without_annotations_images_are_numbered_and_categories_are_the_data_sets(tmp_path):
    folder = pictures(tmp_path / "in", "b.png", "a.png")
    assert main("--input", folder, "--json", tmp_path / "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert [(x["image_id"], Path(x["file_name"]).name) for x in found] == [
        *[(1, "a.png")] * 3,
        *[(2, "b.png")] * 3,
    ]
    assert sorted(x["category_id"] for x in found[:3]) == [1, 2, 4]  # the digits 0, 1 and 3


def test_a_folder_is_done_past_a_broken_image_that_is_reported_at_the_end(tmp_path, capsys):
    folder = pictures(tmp_path / "in", "a.png", "c.tif", "d.jpg")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:900])
    output, results = tmp_path / "out", tmp_path / "new" / "results.json"

    code = main("--input", folder, "--output", output, "--json", results, "--batch-size", 2)

    captured = capsys.readouterr()
    assert code == 2 and "detections in 3 images" in captured.out
    assert "1 images could not be read:\n  cannot read image" in captured.err
    assert captured.err.count("b.png") == 1 and "Traceback" not in captured.err
    assert sorted(x.name for x in output.iterdir()) == ["a.png", "c.tif.png", "d.jpg"]
    assert {x["image_id"] for x in json.loads(results.read_text())} == {1, 3, 4}


def test_whatever_a_folder_has_in_it_the_images_are_done_and_the_rest_is_named(tmp_path, capsys):
    folder = pictures(tmp_path / "in", "good.png", "png.jpg", "tall.png", "wide.png", "dot.png")
    shutil.copy(folder / "good.png", folder / "png.jpg")  # a wrong suffix is no fault
    for name, size in (("tall", (1, 5000)), ("wide", (66_000, 1)), ("dot", (1, 1))):
        Image.new("RGB", size).save(folder / f"{name}.png")
    whole = (folder / "good.png").read_bytes()
    broken = {
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "cut.png": whole[: len(whole) // 2],
        "bomb.ppm": b"P6 60000 60000 255 ",
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "link.jpg").symlink_to("nothing")
    (folder / "folder.jpg").mkdir()
    failing = [*broken, "pipe.jpg", "zero.jpg", "link.jpg"]
    output, results = tmp_path / "out", tmp_path / "r.json"

    code = main("--input", folder, "--output", output, "--json", results, "--threshold", 0)

    captured = capsys.readouterr()
    assert code == 2 and "in 5 images" in captured.out and "Traceback" not in captured.err
    assert f"{len(failing)} images could not be read" in captured.err
    for name in failing:
        assert captured.err.count(f"cannot read image {folder / name}: ") == 1
    found = {Path(x["file_name"]).name for x in json.loads(results.read_text())}
    assert found == {"good.png", "png.jpg", "tall.png", "wide.png", "dot.png"}
    drawn = {x.name: Image.open(x).size for x in output.iterdir()}
    assert set(drawn) == found and drawn["dot.png"] == (384, 384) and drawn["tall.png"][1] == 5000
    assert drawn["wide.png"][0] == 65_500


def test_results_so_far_are_kept_when_a_picture_cannot_be_written(tmp_path, monkeypatch, capsys):
    folder = pictures(tmp_path / "in", "a.png", "b.png")

    def save(picture, path):
        if path.name == "b.png":
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(detect, "save", save)
    code = main("--input", folder, "--output", tmp_path, "--json", tmp_path / "r.json")
    assert code == 2 and "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert {x["image_id"] for x in json.loads((tmp_path / "r.json").read_text())} == {1, 2}


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
    """What OpenCV gives for a camera: three frames, then it is unplugged."""

    def __init__(self, number):
        self.number = number
        self.frames = [cv2.imread(example_image())] * 3

    def isOpened(self):
        return self.number == 1

    def get(self, what):
        known = {cv2.CAP_PROP_FRAME_COUNT: -1.0, cv2.CAP_PROP_FRAME_WIDTH: 96.0}
        return known.get(what, 0.0)

    def read(self):
        return (True, self.frames.pop()) if self.frames else (False, None)

    def release(self):
        self.frames = None


def test_a_video_that_is_a_pipe_or_has_huge_frames_is_refused(tmp_path, monkeypatch, capsys):
    os.mkfifo(tmp_path / "pipe.mp4")
    clip = make_video(tmp_path / "clip.mp4")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 96 - 1)
    cases = [(tmp_path / "pipe.mp4", "is not a file"), (clip, "96 x 64 pixels, and PIL.Image.MAX")]
    for path, said in cases:
        assert main("--input", path, "--output", tmp_path / "out") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{path} " in line and said in line


def test_a_camera_is_written_to_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video_module.cv2, "VideoCapture", Camera)
    code = main("--webcam", 1, "--output", tmp_path / "seen.avi", "--json", tmp_path / "r.json")
    assert code == 0 and "in 3 images" in capsys.readouterr().out
    monkeypatch.undo()
    frames, rate = read_video(tmp_path / "seen.avi")
    assert frames.shape == (3, 96, 96, 3) and rate == 25
    found = json.loads((tmp_path / "r.json").read_text())
    assert {(x["image_id"], x["file_name"]) for x in found} == {(i, "camera 1") for i in (1, 2, 3)}


def test_a_camera_is_shown_until_escape(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(video_module.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(video_module.cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(video_module.cv2, "imshow", lambda _, frame: shown.append(frame))
    monkeypatch.setattr(video_module.cv2, "waitKey", lambda _: -1 if len(shown) < 2 else 27)
    monkeypatch.setattr(video_module.cv2, "destroyWindow", lambda _: shown.append("closed"))
    assert main("--webcam", 1) == 0
    assert len(shown) == 3 and shown[-1] == "closed"
    original = cv2.imread(example_image())
    assert np.abs(shown[0].astype(int) - original)[:20].max() <= 2  # BGR, as OpenCV shows it


def refuse(*_):
    raise cv2.error("The function is not implemented")


def test_a_camera_that_is_not_there_and_a_window_that_cannot_be_are_sentences(monkeypatch, capsys):
    monkeypatch.setattr(video_module.cv2, "VideoCapture", Camera)
    monkeypatch.setattr(video_module.cv2, "namedWindow", refuse)
    for arguments, said in ((["--webcam"], "there is no camera 0"), (["--webcam", 1], "--output")):
        assert main(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "missing.jpg"], "there is no file or folder missing.jpg"),
        (["--input", "empty"], "no file in folder empty ends with .jpg"),
        (["--input", "*.webp"], "no file matches *.webp"),
        (["--input", "in", "--output", "file/sub"], "cannot write to folder file/sub: Not a dir"),
        (["--input", "in", "--json", "file/r.json"], "cannot write to folder file: File exists"),
        (["--input", "in", "--json", "empty"], "empty is a folder"),
        (["--input", "in", "--output", "one.png"], "one.png is the name of a file that 2 inputs"),
        (["--input", "in/a.png", "--output", "a.mp4"], "a.mp4 is the name of a file that in/a.png"),
        (["--input", "in", "--output", "in"], "in/a.png would be written over in/a.png"),
        (["--input", "in", "twin/a.png"], "would be written over in/a.png"),
        (["--input", "file.mp4"], "OpenCV reads no video in file.mp4"),
        (["--input", "in", "--annotations", "file"], "file cannot be read as COCO annotations"),
        (["--input", "in", "--annotations", "c.json"], "c.json has 0 images named b.png"),
        (["--input", "in/a.png", "--annotations", "c.json"], "c.json has no category '0'"),
        (["--config-file", "mini/sam"], "mini/sam is not a file, and config 'mini/sam' is not in"),
        (["--config-file", "file"], "must be a .py or .yaml file"),
        (["--config-file", "coco/sam_detr_r50_12ep"], "no checkpoint for coco/sam_detr_r50_12ep"),
        (["--checkpoint", "missing.pth"], "missing.pth is not a file"),
        (["--checkpoint", "file"], "file"),
        (["--threshold", "7"], "threshold is 7.0, expected 0 to 1"),
        (["--opts", "model.num_querys=3"], "override 'model.num_querys'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures(Path("in"), "a.png", "b.png")
    pictures(Path("twin"), "a.png")
    Path("empty").mkdir()
    Path("file").write_text("text")
    shutil.copy("file", "file.mp4")
    coco = {"images": [{"id": 1, "file_name": "x/a.png"}], "categories": [{"id": 1, "name": "1"}]}
    Path("c.json").write_text(json.dumps(coco))

    assert main(*arguments) == 2

    lines = [x for x in capsys.readouterr().err.splitlines() if not x.endswith("?image/s]")]
    assert len(lines) == 1 and said in lines[0], lines


def test_the_help_tells_the_exit_code(capsys):
    assert main("--help") == 0
    assert "Exit code: 0; 2 if nothing could be done" in capsys.readouterr().out
