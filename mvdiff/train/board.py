"""The run's curves and contact sheets for TensorBoard.

Event files are written by this thread, an event at a time, with tensorboard's own record format. torch's
``SummaryWriter`` would leave that to a thread that prints a traceback and dies when the disk is full, loses what it has
not written when the job is killed, and names files by the clock of a node, in whose order TensorBoard reads them.
"""

import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Board:
    """Writes event files into ``folder``, where ``tensorboard --logdir`` finds them; None: does nothing.

    One process writes a folder. What was logged there before for ``from_step`` and later steps is hidden: these steps
    are about to be made again. The package tensorboard is optional, and a log is not worth a training run: where it is
    missing or the disk fails, one line is given to ``say`` and nothing is written any more.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None], from_step: int) -> None:
        self._say = say
        self._file: BinaryIO | None = None
        if folder is None:
            return
        try:
            # here, because it takes up to a second; whoever needs no board does not wait for it
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except Exception as error:  # beside ImportError a TypeError, from a protobuf of another age
            say(f"nothing goes to TensorBoard: {error} (pip install 'mvdiff[tensorboard]')")
            return
        self._event, self._summary = Event, Summary
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _next_file(folder)
        except OSError as error:
            self._fail(error)
            return
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=from_step, session_log=SessionLog(status=SessionLog.START)))

    def step(
        self, step: int, loss: float, norm: float, rate: float, samples_per_second: float, data_wait: float
    ) -> None:
        """Curves at ``step``: ``loss`` and gradient ``norm`` of the global batch, learning ``rate``, speed, and the
        share of time in which the step waited for data."""
        curves = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
        curves |= {"samples_per_second": samples_per_second, "data_wait": data_wait}
        self._scalars(step, "train", curves)

    def validation(self, step: int, scores: Mapping[str, float], sheet: NDArray[np.uint8] | None) -> None:
        """``scores`` by name and the contact ``sheet`` uint8 [H, W, 3] of the validation after ``step`` steps."""
        self._scalars(step, "validation", scores)
        if sheet is None or self._file is None:
            return
        content = io.BytesIO()
        Image.fromarray(sheet).save(content, "PNG")
        height, width = sheet.shape[:2]
        image = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=content.getvalue()
        )  # fmt: skip
        self._values(step, [self._summary.Value(tag="validation/sheet", image=image)])

    def close(self) -> None:
        """Nothing is written after this."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            self._fail(error)

    def _scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        if self._file is None:
            return
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        self._values(
            step, [self._summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in known.items()]
        )

    def _values(self, step: int, values: list[Any]) -> None:
        self._write(self._event(step=step, summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        """Append ``event``, and hand it to the system at once, so that a kill costs nothing of it."""
        if self._file is None:
            return
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Say it, and write no more."""
        file, self._file = self._file, None
        self._say(f"nothing goes to TensorBoard any more: {error}")
        # the same failure again: closing tries once more to write what is left
        with suppress(OSError):
            if file is not None:
                file.close()


def _next_file(folder: Path) -> BinaryIO:
    """A new event file that TensorBoard, which goes by names, reads after all those that are there."""
    taken = [int(path.suffix[1:]) for path in folder.glob("events.out.tfevents.*") if path.suffix[1:].isdecimal()]
    return (folder / f"events.out.tfevents.{max(taken, default=-1) + 1:08d}").open("xb")
