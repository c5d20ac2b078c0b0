"""A video file in, frames out - and frames in, a video file out; PyAV (FFmpeg) does the work where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CompressError
from ..files import replaced

CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders in the order in which they are wanted; which of them there are depends on how FFmpeg was built."""


class Unreadable(Exception):
    """The file holds no video that can be decoded."""


@dataclass(frozen=True)
class Clip:
    """An open video. frames: how many it says it has, 0 where it does not say. rate: frames a second. size: (w, h)."""

    container: Any
    frames: int
    rate: Fraction
    size: tuple[int, int]

    def batches(self, n: int) -> Iterator[list[np.ndarray]]:
        """All frames in order, n at a time, each (h, w, 3) uint8."""
        import av

        group: list[np.ndarray] = []
        try:
            for frame in self.container.decode(video=0):
                group.append(frame.to_ndarray(format="rgb24"))
                if len(group) == n:
                    yield group
                    group = []
        except av.FFmpegError:  # cut off or damaged: what came before stands
            pass
        if group:
            yield group


def require() -> None:
    """Raise CompressError where PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise CompressError("videos need PyAV, which is not installed; pip install 'torch-compress[video]'") from None


@contextmanager
def reading(file: Path) -> Iterator[Clip]:
    """Open a video file. Raises Unreadable."""
    import av

    try:
        container = av.open(str(file))
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(str(error)) from None
    with container:
        if not container.streams.video:
            raise Unreadable("no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield Clip(container, stream.frames, stream.average_rate or Fraction(25), (stream.width, stream.height))


@contextmanager
def writing(file: Path, rate: Fraction, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield what takes the frames of a new .mp4, each (h, w, 3) uint8; the file is there when the block ends well.

    rate: frames a second. size: (width, height); an odd side loses its last row or column, which the format demands.
    """
    import av

    known = next(codec for codec in CODECS if codec in av.codecs_available)
    with replaced(file) as beside, av.open(str(beside), "w", format="mp4") as container:
        stream: Any = container.add_stream(known, rate=rate)  # a VideoStream, which the name of a codec cannot say
        stream.width, stream.height, stream.pix_fmt = size[0] // 2 * 2, size[1] // 2 * 2, "yuv420p"

        def write(pixels: np.ndarray) -> None:
            even = np.ascontiguousarray(pixels[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield write
        container.mux(stream.encode())
