"""The contact sheet of a result set."""

import numpy as np
from PIL import Image

from mvdiff.generate.sheet import ROWS, Sheet, sheet_path
from mvdiff.shard import ShardReader


def test_it_shows_inputs_beside_what_was_made_of_them(bench):
    plan = bench.plan()
    bench.work(plan)
    path = sheet_path(plan.folder)
    assert path is not None
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    strips = len(plan.published())
    assert pixels.shape == (18 + strips * 146, 7 * 128, 3)
    first = plan.slice_at(0)
    with ShardReader(plan.folder / first.file_name) as made, ShardReader(first.shards[0]) as given:
        shown = [given.sample(first.rows[0]).views[plan.recipe.reference_view], *made.sample(0).views]
    for k, picture in enumerate(shown):
        tile = pixels[18 : 18 + 128, k * 128 : (k + 1) * 128].astype(float)
        assert abs(tile.mean((0, 1)) - picture.mean((0, 1))).max() < 2, k


def test_a_sheet_that_shows_all_of_it_is_not_drawn_again_by_another_worker(bench):
    plan = bench.plan()
    bench.work(plan)
    path = plan.folder / "sheet.png"
    before = path.stat().st_mtime_ns
    Sheet(plan, 0.0).draw()
    assert path.stat().st_mtime_ns == before
    with Image.open(path) as sheet:
        picture = sheet.copy()
    picture.save(path)  # one of which nobody knows what it shows
    Sheet(plan, 0.0).draw()
    assert path.stat().st_mtime_ns != before


def test_it_grows_with_the_set_and_keeps_its_length(bench):
    plan = bench.plan(slice_size=1)
    sheet = Sheet(plan, 0.0)
    bench.work_one_batch(plan)
    sheet.draw()
    with Image.open(plan.folder / "sheet.png") as few:
        small = few.size[1]
    bench.work(plan)
    sheet.draw()
    with Image.open(plan.folder / "sheet.png") as all_of_it:
        assert small < all_of_it.size[1] <= 18 + ROWS * 146
