import math
import re
from xml.etree import ElementTree

import pytest

from mvdiff.errors import InputError
from mvdiff.evaluate.metrics import METRICS, Figure
from mvdiff.evaluate.plot import histogram
from mvdiff.evaluate.publication import Publication
from mvdiff.evaluate.report import Report, write_report
from mvdiff.evaluate.scores import BASELINES, SampleScores, Summary, consistency_means, figures
from mvdiff.evaluate.settings import EvaluateSettings

HOSTILE = "<script>alert('x')</script>\"&"


def flat(value: float) -> dict[str, Figure]:
    return {metric.name: Figure(value, value, (value,) * 6) for metric in METRICS}


def report(values: list[float], page: int, name: str = "body", **changes) -> Report:
    """One sample for each of ``values``, which is its model's score in every metric."""
    whole = {"silhouette": 0.9, "silhouette_worst": 0.8, "colour": math.nan, "colour_overlap": 0.0}
    methods = {"truth": 1.0, **dict.fromkeys(BASELINES, 0.5)}
    samples = [
        SampleScores(
            f"{name}-{n}", "session", {"model": flat(value), **{key: flat(of) for key, of in methods.items()}},
            {"model": whole, "truth": whole}, None,
        )
        for n, value in enumerate(values)
    ]  # fmt: skip
    summary = Summary(
        len(samples), 0, figures(samples), consistency_means(samples),
        changes.get("missing", {}), changes.get("unexpected", []), changes.get("unreadable", {}),
        changes.get("shared_recordings", []), 7,
    )  # fmt: skip
    angles = [0.0, 60.0, 120.0, 180.0, 240.0, 300.0]
    made = {"checkpoint": changes.get("checkpoint", "abc")}
    return Report(
        summary,
        samples,
        angles,
        [0.0] * 6,
        made,
        {"truth": "there"},
        EvaluateSettings(1, 24, page),
        changes.get("of", ""),
    )


def published(out, content: Report) -> str:
    with Publication(out) as publication:
        text = write_report(content, publication)
        publication.publish("index.html", text)
    return text


def test_titles_say_whose_views_they_are_and_how_many(tmp_path):
    text = published(tmp_path / "out", report([0.1, 0.2, 0.3], 2, "sample", of="mice"))
    assert "<title>mice: generated views of 3 samples</title>" in text and "<h1>mice: six views" in text
    (page,) = (path.read_text() for path in (tmp_path / "out").glob("files-*/page-2.html"))
    assert "<title>mice: samples, page 2 of 2</title>" in page
    assert "<title>Generated views of 1 sample</title>" in published(tmp_path / "one", report([0.1], 2, "sample"))


def test_hostile_names_are_escaped_on_every_page(tmp_path):
    content = report(
        [0.1, 0.2, 0.3], 1, HOSTILE, missing={HOSTILE: HOSTILE}, unexpected=[HOSTILE], unreadable={HOSTILE: HOSTILE},
        shared_recordings=[HOSTILE], checkpoint=HOSTILE, of=HOSTILE,
    )  # fmt: skip
    text = published(tmp_path / "out", content)
    pages = [text, *(path.read_text() for path in (tmp_path / "out").glob("files-*/page-*.html"))]
    assert len(pages) == 3
    for page in pages:
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert not re.search(r'alt="[^"]*<', page)


def test_many_samples_go_to_many_pages(tmp_path):
    text = published(tmp_path / "out", report([n / 2000 for n in range(2000)], 60))
    pages = list((tmp_path / "out").glob("files-*/page-*.html"))
    assert len(pages) == 33
    assert len(text) < 200_000
    shown = [
        name for page in (text, *(path.read_text() for path in pages)) for name in re.findall(r"(\d+)\.webp", page)
    ]
    assert {int(name) for name in shown} == set(range(2000))
    first = re.search(r'id="samples".*', text, re.S)
    assert first and re.findall(r"(\d+)\.webp", first[0])[0] == "001999"  # ranked from the best


def test_a_model_behind_a_baseline_is_told_so(tmp_path):
    behind, ahead = (published(tmp_path / str(value), report([value] * 3, 10)) for value in (0.4, 0.6))
    assert "below the best baseline" in behind and "above the best baseline" not in behind
    assert "above the best baseline" in ahead and "below the best baseline" not in ahead


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_best_median_and_worst_of_few_samples(tmp_path, count):
    text = published(tmp_path / "out", report([n / 10 for n in range(count)], 10))
    assert ("Median</h3>" in text) == (count >= 3)


def test_many_missing_samples_are_counted_and_not_all_listed(tmp_path):
    text = published(tmp_path / "out", report([0.5], 10, missing={f"gone-{n:04d}": "x" for n in range(500)}))
    assert "True samples without a result: 500" in text
    assert text.count("gone-") == 50 and "450 more are in" in text


def test_a_histogram_counts_every_sample():
    svg = histogram([0.1, 0.1, 0.9, math.nan], [0.5], "<spread>", 3)
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == "<spread>"
    bars = [float(bar.attrib["height"]) for bar in root if bar.attrib.get("class") == "bar"]
    assert len(bars) == 2 and max(bars) == pytest.approx(2 * min(bars), abs=0.2)
    assert histogram([math.nan], [], "nothing", 3) == ""
    ElementTree.fromstring(histogram([0.7, 0.7], [], "all the same", 3))


def test_an_interrupted_publication_leaves_the_old_one_whole(tmp_path):
    out = tmp_path / "out"

    def publish(word: str, fail: bool) -> None:
        with Publication(out) as publication:
            (publication.folder / "a.txt").write_text(word)
            name = publication.seal()
            if fail:
                raise KeyboardInterrupt
            publication.publish("index.html", name)

    publish("one", fail=False)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        publish("two", fail=True)
    with pytest.raises(KeyboardInterrupt):
        publish("one", fail=True)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    (out / ".files.dead.part").mkdir()  # of a killed process
    publish("two", fail=False)
    names = [path.name for path in out.iterdir() if path.is_dir()]
    assert names == [(out / "index.html").read_text()] and (out / names[0] / "a.txt").read_text() == "two"


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"evaluate\.page is 0"):
        EvaluateSettings(1, 24, 0)
