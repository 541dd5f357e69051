import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mvdiff.errors import InputError
from mvdiff.evaluate.evaluation import evaluate

MADE = {"checkpoint": "0123abcd", "steps": 28, "guidance": 4.0, "seed": 5, "reference_view": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory, bodies, write, generated):
    """Four training samples, six held out, of which two have no result and one result has no truth."""
    folder = tmp_path_factory.mktemp("run")
    write(folder / "train" / "a.h5", bodies[:4])
    write(folder / "truth" / "a.h5", bodies[4:])
    stray = replace(bodies[0], sample_id="stray")
    write(folder / "results" / "a.h5", [generated(sample) for sample in [*bodies[4:8], stray]], **MADE)
    return folder


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    from mvdiff.evaluate.settings import EvaluateSettings

    out = tmp_path_factory.mktemp("out") / "report"
    settings = EvaluateSettings(train_samples=100, tile=24, page=3)
    return out, evaluate(run / "results", run / "truth", run / "train", out, settings=settings)


def test_a_good_model_leads_every_baseline(evaluated):
    _, summary = evaluated
    for metric in ("foreground_iou", "foreground_psnr", "psnr"):
        for name in ("nearest", "mean", "input", "blank"):
            model, other = (summary.methods[method][metric] for method in ("model", name))
            assert model.all_views > other.all_views
            assert model.novel_views > other.novel_views
    assert summary.methods["model"]["foreground_iou"].all_views > 0.95
    assert summary.methods["blank"]["foreground_iou"].all_views == 0
    assert np.isnan(summary.methods["blank"]["colour_shift"].all_views)
    assert summary.consistency["model"]["silhouette"] > 0.97


def test_what_is_missing_is_named(evaluated):
    _, summary = evaluated
    assert summary.samples == 4
    assert summary.missing == {"body-008": "not generated", "body-009": "not generated"}
    assert summary.unexpected == ["stray"]
    assert summary.shared_recordings == []


def test_metrics_json_holds_every_number(evaluated):
    out, summary = evaluated
    content = json.loads((out / "metrics.json").read_text())
    assert content["summary"]["headline"]["psnr"]["all_views"] == pytest.approx(summary.headline["psnr"].all_views)
    assert [sample["sample_id"] for sample in content["samples"]] == [f"body-{n:03d}" for n in range(4, 8)]
    for sample in content["samples"]:
        assert len(sample["methods"]["model"]["ssim"]["per_view"]) == 6
        assert sample["methods"]["blank"]["colour_shift"]["all_views"] is None
        with Image.open(out / sample["sheet"]) as sheet:
            assert sheet.size == (7 * 24, 2 * 24)
    means = [sample["methods"]["model"]["psnr"]["novel_views"] for sample in content["samples"]]
    assert np.mean(means) == pytest.approx(content["summary"]["methods"]["model"]["psnr"]["novel_views"], abs=1e-4)


def test_the_report_shows_figures_names_and_provenance(evaluated):
    out, summary = evaluated
    page = (out / "index.html").read_text()
    for figure in summary.headline.values():
        assert f"{figure.novel_views:.2f}" in page
    for words in ("body-008", "stray", "0123abcd", "Nearest training sample", "guidance", "How to read this"):
        assert words in page
    assert "<script" not in page and "http:" not in page and "https:" not in page


def test_every_file_a_page_refers_to_is_there(evaluated):
    out, _ = evaluated
    pages = [out / "index.html", *out.glob("files-*/page-*.html")]
    assert len(pages) == 2  # four samples, three a page
    for page in pages:
        names = re.findall(r'(?:src|href)="([^"#]+)', page.read_text())
        assert any(name.endswith(".webp") for name in names)
        for name in names:
            assert (page.parent / name).is_file(), name


def test_the_lines_for_a_terminal_hold_the_three_figures(evaluated):
    _, summary = evaluated
    lines = summary.lines()
    assert len(lines) == 3
    assert "Foreground IoU" in lines[0] and f"{summary.headline['foreground_iou'].all_views:.3f}" in lines[0]
    assert "best baseline" in lines[2]


def test_again_gives_the_same_files_and_leaves_nothing_behind(run, tmp_path, settings, write, bodies, generated):
    out = tmp_path / "report"
    folders = []
    for _ in range(2):
        evaluate(run / "results", run / "truth", None, out, settings=settings)
        folders.append([path.name for path in out.glob("files-*")])
    assert folders[0] == folders[1] and len(folders[0]) == 1
    other = write(tmp_path / "other.h5", [generated(bodies[4], noise=20)], **MADE)
    evaluate(other, run / "truth", None, out, settings=settings)
    after = [path.name for path in out.glob("files-*")]
    assert len(after) == 1 and after != folders[0]
    assert sorted(path.name for path in out.iterdir()) == sorted([*after, "index.html", "metrics.json"])


def test_without_a_training_split_two_baselines_remain(run, tmp_path, settings):
    summary = evaluate(run / "results", run / "truth", None, tmp_path / "report", settings=settings)
    assert set(summary.methods) == {"model", "truth", "input", "blank"}
    assert "No training split was given" in (tmp_path / "report" / "index.html").read_text()


def test_a_recording_in_both_splits_is_told(run, tmp_path, settings):
    summary = evaluate(run / "results", run / "truth", run / "truth", tmp_path / "report", settings=settings)
    assert summary.shared_recordings == ["session-2", "session-3", "session-4"]
    assert "Not held out" in (tmp_path / "report" / "index.html").read_text()


def test_a_damaged_row_costs_that_row(run, tmp_path, settings, bodies, write, generated, damage):
    results = [generated(sample) for sample in bodies[4:7]]
    damage(write(tmp_path / "results" / "a.h5", results, **MADE), results[1])
    summary = evaluate(tmp_path / "results", run / "truth", None, tmp_path / "report", settings=settings)
    assert summary.samples == 2
    assert list(summary.unreadable) == ["body-005"]
    assert "body-005" in (tmp_path / "report" / "index.html").read_text()


def test_another_reference_view_is_the_one_left_out(run, tmp_path, settings, bodies, write, generated):
    result = generated(bodies[4], noise=0)
    result.views[0] = 255
    path = write(tmp_path / "a.h5", [result], **{**MADE, "reference_view": 0})
    other = write(tmp_path / "b.h5", [result], **{**MADE, "reference_view": 3})
    left_out, kept = (
        evaluate(source, run / "truth", None, tmp_path / f"report{n}", settings=settings)
        for n, source in enumerate((path, other))
    )
    assert left_out.methods["model"]["foreground_iou"].novel_views > 0.95
    assert kept.methods["model"]["foreground_iou"].novel_views < 0.85


def test_what_does_not_fit_together_is_refused_and_leaves_nothing(
    run, tmp_path, settings, bodies, write, generated, body
):
    out = tmp_path / "report"
    other_cameras = replace(generated(bodies[4]), azimuth=np.array((0, 45, 90, 180, 270, 315), np.float32))
    cases = {
        "no sample of": [replace(generated(bodies[4]), sample_id="unknown")],
        "pixels": [generated(body(4, 48))],
        "30 degrees from the truth": [other_cameras],
    }
    for n, (words, samples) in enumerate(cases.items()):
        path = write(tmp_path / f"case-{n}.h5", samples, **MADE)
        with pytest.raises(InputError, match=words):
            evaluate(path, run / "truth", None, out, settings=settings)
        assert not out.exists()
    small = write(tmp_path / "small.h5", [body(4, 48)])
    with pytest.raises(InputError, match="pack both alike"):
        evaluate(run / "results", run / "truth", small, out, settings=settings)
    with pytest.raises(InputError, match="does not exist"):
        evaluate(tmp_path / "nowhere", run / "truth", None, out, settings=settings)
