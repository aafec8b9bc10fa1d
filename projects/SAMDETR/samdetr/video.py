"""Reading, writing and showing video with OpenCV; frames are (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .errors import InputError

try:
    import cv2
except ModuleNotFoundError as error:
    raise ImportError(f"video needs {error.name}: run `pip install samdetr[draw]`") from error

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
CODECS = {".avi": "MJPG"}
DEFAULT_CODEC = "mp4v"  # available in every build of OpenCV
DEFAULT_RATE = 25.0  # frames per second, for cameras and files that do not state theirs
ESCAPE = 27


def is_video(file: Path) -> bool:
    """True for files with the suffix of a video."""
    return file.suffix.lower() in VIDEO_SUFFIXES


class VideoReader:
    """Iterate once over the frames of a video file, or of the camera with a number.

    Raises:
        InputError: if OpenCV cannot open the source.
    """

    def __init__(self, source: Path | int):
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            problem = "there is no" if isinstance(source, int) else "OpenCV reads no video in"
            raise InputError(f"{problem} {self.name}")
        self.rate: float = self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE  # frames per second
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))  # according to the file
        self.count = count if count > 0 else None  # unknown of a camera

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames and release the source after the last one."""
        try:
            while (read := self._capture.read())[0]:
                yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()


class VideoWriter:
    """Write frames, all of the size of the first one, to a file whose suffix selects the container.

    The rate is in frames per second.
    """

    def __init__(self, path: Path, rate: float):
        self.path = path
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> bool:
        """Append a frame and return True.

        Raises:
            InputError: if OpenCV cannot write such a file.
        """
        if self._writer is None:
            height, width = frame.shape[:2]
            codec = cv2.VideoWriter.fourcc(*CODECS.get(self.path.suffix.lower(), DEFAULT_CODEC))
            self._writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot write a video to {self.path}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        return True

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


class VideoWindow:
    """Show frames in a window on the screen.

    Raises:
        InputError: if this build of OpenCV cannot open a window.
    """

    TITLE = "samdetr"

    def __init__(self) -> None:
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise InputError(
                "OpenCV cannot open a window here (opencv-python-headless never can): write to a "
                "file with --output"
            ) from error

    def add(self, frame: np.ndarray) -> bool:
        """Show a frame and return False once the user has pressed Escape."""
        cv2.imshow(self.TITLE, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF != ESCAPE

    def close(self) -> None:
        """Close the window."""
        cv2.destroyWindow(self.TITLE)
