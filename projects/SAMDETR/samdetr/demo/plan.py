"""What a run looks at and where it writes, checked before a model is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, InputError, find_files, is_video
from ..outputs import check_files
from .outputs import Annotations, output_files
from .video import Frames, Movie, Sink, Window


class Video(NamedTuple):
    """A video or camera and what becomes of its frames when something was drawn on them."""

    frames: Frames
    sink: Sink | None


class Plan(NamedTuple):
    """What a run looks at and where it writes."""

    images: dict[Path, int]  # and their ids in the results
    pictures: dict[Path, Path]  # what they are drawn to; nothing if nothing is to be drawn
    videos: list[Video]
    json: Path | None  # file of the results
    annotations: Annotations | None  # that has the ids of the categories


def plan_files(
    inputs: Sequence[str],
    output: Path | None = None,
    json: Path | None = None,
    annotations: Path | None = None,
) -> Plan:
    """A run over images and videos.

    Args:
        inputs: files, folders and patterns such as "photos/*.jpg".
        output: of one input a file, else a folder; None to draw nothing.
        json: file for the detections as COCO results; None for none.
        annotations: COCO file for the ids of images and categories; None for 1, 2, 3 and so on, and
            for the ids of the config's data set.

    Raises:
        InputError: if an input is not there or a video cannot be read, if an output cannot be
            written or would replace something of this run, or if `annotations` cannot be read or
            lacks an image.
    """
    files = find_files(inputs, IMAGE_SUFFIXES + VIDEO_SUFFIXES)
    images = [x for x in files if not is_video(x)]
    if annotations and len(images) < len(files):
        raise InputError(f"{annotations} has no frames of videos: leave out the one or the other")
    known = Annotations.read(annotations) if annotations else None
    ids = known.image_ids(images) if known else {x: i for i, x in enumerate(images, 1)}
    targets = output_files(files, output) if output else {}
    videos = [_video(Frames(x), targets.get(x)) for x in files if is_video(x)]
    check_files([*targets.values(), *([json] if json else [])])
    return Plan(ids, {x: targets[x] for x in images if targets}, videos, json, known)


def plan_camera(number: int, output: Path | None = None, json: Path | None = None) -> Plan:
    """A run over what a camera sees, until it ends or somebody ends it.

    Args:
        number: of the camera, from 0.
        output: video file; None for a window on the screen.
        json: as in `plan_files`.

    Raises:
        InputError: if there is no such camera or no window, or if an output cannot be written.
    """
    source = Path(f"camera{number}.mp4")
    target = output_files([source], output)[source] if output else None
    frames = Frames(number)
    check_files([x for x in (target, json) if x])
    video = _video(frames, target) if target else Video(frames, Window())
    return Plan({}, {}, [video], json, None)


def _video(frames: Frames, target: Path | None) -> Video:
    return Video(frames, Movie(target, frames.rate) if target else None)
