import errno
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvdiff.train.board import Board

SHEET = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def said() -> list[str]:
    return []


def take(board: Board, *steps: int) -> None:
    for step in steps:
        board.step(step, loss=1.0 / (step + 1), norm=2.0, rate=1e-3, samples_per_second=7.0, data_wait=0.25)


def read(folder: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in read(folder).Scalars(tag)]


def test_tensorboard_reads_the_curves(tmp_path, said):
    board = Board(tmp_path / "board", said.append, 0)
    take(board, 0, 1, 3)
    found = read(tmp_path / "board")
    names = ["loss", "gradient_norm", "learning_rate", "samples_per_second", "data_wait"]
    assert sorted(found.Tags()["scalars"]) == sorted(f"train/{name}" for name in names)
    assert curve(tmp_path / "board", "train/loss") == [(0, 1.0), (1, 0.5), (3, 0.25)], "before the board is closed"
    assert found.Scalars("train/learning_rate")[0].value == pytest.approx(1e-3)
    assert found.FirstEventTimestamp() > 1e9
    board.close()
    assert said == []


def test_tensorboard_reads_scores_and_sheet(tmp_path, said):
    board = Board(tmp_path, said.append, 0)
    board.validation(50, {"foreground_psnr": 13.5, "colour_shift": math.nan}, SHEET)
    board.validation(100, {"foreground_psnr": 13.75, "colour_shift": 4.0}, None)
    board.close()
    assert curve(tmp_path, "validation/foreground_psnr") == [(50, 13.5), (100, 13.75)]
    assert curve(tmp_path, "validation/colour_shift") == [(100, 4.0)], "what is not a number has no point"
    (image,) = read(tmp_path).Images("validation/sheet")
    assert (image.step, image.width, image.height) == (50, 60, 40)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), SHEET)


def test_steps_that_are_made_again_replace_the_old_ones(tmp_path, said):
    killed = Board(tmp_path, said.append, 0)
    take(killed, 0, 1, 2, 3)
    killed.validation(3, {"psnr": 1.0}, SHEET)
    for start in (2, 2):
        again = Board(tmp_path, said.append, start)
        again.step(2, loss=9.0, norm=2.0, rate=1e-3, samples_per_second=7.0, data_wait=0.25)
        again.close()
    assert curve(tmp_path, "train/loss") == [(0, 1.0), (1, 0.5), (2, 9.0)]
    found = read(tmp_path)
    assert found.Scalars("validation/psnr") == [] and found.Images("validation/sheet") == []


def test_files_are_read_in_the_order_of_the_starts_whatever_the_clock_says(tmp_path, said, monkeypatch):
    for start, clock in ((0, 2e9), (1, 1e9), (2, 1.5e9)):
        monkeypatch.setattr("mvdiff.train.board.time.time", lambda clock=clock: clock)
        board = Board(tmp_path, said.append, start)
        take(board, start, start + 1)
        board.close()
    assert [step for step, _ in curve(tmp_path, "train/loss")] == [0, 1, 2, 3]


def test_a_torn_event_of_a_killed_run_costs_only_itself(tmp_path, said):
    board = Board(tmp_path, said.append, 0)
    take(board, 0, 1)
    board.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    again = Board(tmp_path, said.append, 1)
    take(again, 1, 2)
    again.close()
    assert [step for step, _ in curve(tmp_path, "train/loss")] == [0, 1, 2]


def fill(disk: Path) -> None:
    """Leave no byte."""
    with (disk / "fill").open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


def test_a_disk_that_fills_up_is_told_once_and_costs_nothing_else(small_disk, said, capfd):
    board = Board(small_disk / "board", said.append, 0)
    take(board, 0, 1)
    fill(small_disk)
    for step in range(2, 100):
        take(board, step)
        board.validation(step, {"psnr": 1.0}, SHEET)
    board.close()
    assert len(said) == 1 and "No space left" in said[0]
    assert capfd.readouterr() == ("", "")
    kept = [step for step, _ in curve(small_disk / "board", "train/loss")]
    assert kept[:2] == [0, 1] and kept == list(range(len(kept)))


def test_a_disk_that_is_full_from_the_start_is_told_once(small_disk, said, capfd):
    fill(small_disk)
    board = Board(small_disk / "board", said.append, 0)
    take(board, 0, 1)
    board.close()
    assert len(said) == 1 and "No space left" in said[0]
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, said):
    (tmp_path / "board").write_text("a file")
    board = Board(tmp_path / "board", said.append, 0)
    take(board, 0)
    board.validation(0, {"psnr": 1.0}, SHEET)
    board.close()
    assert len(said) == 1 and "TensorBoard" in said[0]


def test_without_tensorboard_one_line_says_so(tmp_path, said, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    board = Board(tmp_path, said.append, 0)
    take(board, 0)
    board.validation(0, {"psnr": 1.0}, SHEET)
    board.close()
    assert len(said) == 1 and "mvdiff[tensorboard]" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_rank_without_a_board_does_not_import_tensorboard():
    code = """
import sys
from mvdiff.train.board import Board
board = Board(None, print, 0)
board.step(0, 1.0, 1.0, 1.0, 1.0, 0.0)
board.validation(0, {"psnr": 1.0}, None)
board.close()
sys.exit(any(name.split(".")[0] == "tensorboard" for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
