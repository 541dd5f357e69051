import json
import math

import pytest

from mvdiff.train.history import DRIFT, FALL, History, Validated

SCORES = {
    "foreground_psnr": 13.0, "psnr": 20.0, "ssim": 0.8, "foreground_iou": 0.6, "colour_shift": 5.0, "silhouette": 0.9,
}  # fmt: skip


def history(*foreground_psnr: float, colour_shift: list[float] | None = None) -> History:
    """Validations at steps 0, 25, 50, ..."""
    shifts = colour_shift or [5.0] * len(foreground_psnr)
    return History(
        Validated(25 * k, SCORES | {"foreground_psnr": psnr, "colour_shift": shift})
        for k, (psnr, shift) in enumerate(zip(foreground_psnr, shifts, strict=True))
    )


def test_the_best_is_the_earliest_of_the_highest():
    told = history(12.0, 13.5, 13.5, 13.0)
    assert told.best().step == 25
    assert told.ranking() == [25, 50, 75, 0]
    assert told.newest.step == 75


def test_nothing_is_best_or_wrong_where_there_is_nothing():
    for empty in (History(), history(math.nan)):
        assert empty.best() is None
        assert empty.ranking() == []
        assert empty.remarks() == []
    assert History().newest is None
    assert not History().exhausted(1)


def test_patience_counts_validations_since_the_best():
    told = history(12.0, 13.0, 12.9, 13.0)
    assert told.stale() == 2, "an equal one is no better one"
    assert [told.exhausted(patience) for patience in (0, 1, 2, 3)] == [False, True, True, False]
    told.record(100, SCORES | {"foreground_psnr": 13.01})
    assert told.stale() == 0 and not told.exhausted(1)
    told.record(125, SCORES | {"foreground_psnr": math.nan})
    assert told.stale() == 1, "what is not a number is not better"


def test_a_step_that_is_redone_replaces_itself_and_all_later_ones():
    told = history(12.0, 13.0, 14.0, 15.0)
    told.record(50, SCORES)
    assert [one.step for one in told] == [0, 25, 50]
    assert told.newest.scores == SCORES
    assert told.best().step == 25


def test_json_and_back_changes_no_bit():
    told = history(1 / 3, math.nan, 0.1 + 0.2)
    text = json.dumps(told.written(), allow_nan=False)
    back = History.read(json.loads(text))
    assert json.dumps(back.written()) == text
    assert [one.step for one in back] == [0, 25, 50]
    assert back.newest.scores == told.newest.scores
    assert math.isnan(back.entries[1].scores["foreground_psnr"])


def test_what_was_recorded_does_not_change_with_the_callers_dictionary():
    told, scores = History(), dict(SCORES)
    told.record(0, scores)
    scores["psnr"] = 0.0
    assert told.newest.scores == SCORES


def test_a_fall_after_a_rise_is_told_with_steps_figures_and_what_to_do():
    (line,) = history(12.0, 13.0, 13.4 - FALL, 12.6).remarks()
    assert "12.60 dB at step 75" in line and "13.10 at step 50" in line
    assert "lower train.learning_rate" in line and "step-00000050" in line


@pytest.mark.parametrize(
    "quiet",
    [
        pytest.param([12.0, 13.0, 13.1 - FALL], id="a small fall"),
        pytest.param([14.0, 13.0, 12.0], id="no rise before"),
        pytest.param([12.0, 11.0, 13.0], id="a fall that is over"),
        pytest.param([12.0, 13.0, math.nan], id="no number"),
    ],
)
def test_other_courses_are_not_told(quiet):
    assert history(*quiet).remarks() == []


def test_colours_that_drift_are_told_against_the_least_shift_so_far():
    (line,) = history(13.5, 13.4, 13.3, colour_shift=[6.0, 4.0, 4.1 + DRIFT]).remarks()
    assert "colour shift 6.1 at step 50" in line and "2.1 above the 4.0 at step 25" in line
    assert "step-00000000" in line
    assert history(13.5, 13.4, 13.3, colour_shift=[6.0, 4.0, 3.9 + DRIFT]).remarks() == []
    assert history(13.5, 13.4, colour_shift=[9.0, 4.0]).remarks() == [], "a shift that falls"


def test_a_drift_of_the_best_so_far_is_to_be_looked_at_not_to_be_thrown_away():
    (line,) = history(13.0, 14.0, colour_shift=[4.0, 8.0]).remarks()
    assert "look at the contact sheet" in line and "makes it worse" not in line


@pytest.mark.parametrize("shifts", [[math.nan, 8.0], [8.0, math.nan], [math.nan, math.nan]])
def test_a_shift_that_is_not_a_number_drifts_nowhere(shifts):
    assert history(13.0, 12.9, colour_shift=shifts).remarks() == []


def test_drift_and_fall_are_two_lines():
    assert len(history(12.0, 13.0, 12.0, colour_shift=[4.0, 4.0, 8.0]).remarks()) == 2


def test_the_line_tells_every_score_beside_the_best():
    assert history(13.0, 13.4, 13.21).line(1200) == (
        "validation at step 50/1200: foreground PSNR 13.21 dB (best 13.40 at step 25), PSNR 20.00 dB, SSIM 0.800, "
        "foreground IoU 0.600, colour shift 5.0, silhouette 0.900"
    )
    assert "13.40 dB (the best so far), PSNR" in history(13.0, 13.4).line(1200)
    assert "13.00 dB, PSNR" in history(13.0).line(1200)
    assert "foreground PSNR unknown (best 13.00 at step 0)" in history(13.0, math.nan).line(1200)


def test_it_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, mvdiff.train.history; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
