"""The contact sheet of a result set."""

import numpy as np
from PIL import Image

from mvdiff import ResultStore
from mvdiff.generate.sheet import COLUMN, ROWS, Sheet, sheet_path
from mvdiff.lettering import LINE, line
from mvdiff.shard import ShardReader

TILE, WIDTH, GAP = 128, 7 * 128, 24
STRIP = LINE + TILE


def pixels_of(folder):
    with Image.open(folder / "sheet.png") as sheet:
        return np.asarray(sheet)


def ids_on(pixels, ids):
    """The samples whose labels stand on the sheet, in its order."""
    labels = {line([name], WIDTH).tobytes(): name for name in ids}
    columns = [pixels[:, at : at + WIDTH] for at in range(0, pixels.shape[1], WIDTH + GAP)]
    rows = [column[top : top + LINE] for column in columns for top in range(LINE, len(column), STRIP)]
    return [labels[row.tobytes()] for row in rows if row.tobytes() in labels]


def test_few_slices_show_several_samples_each_with_inputs_beside_what_was_made_of_them(bench):
    plan = bench.plan()
    assert len(plan) < plan.samples == 10 < ROWS
    bench.work(plan)
    assert sheet_path(plan.folder) == plan.folder / "sheet.png"
    pixels = pixels_of(plan.folder)
    assert pixels.shape == (LINE + 5 * STRIP, 2 * WIDTH + GAP, 3)
    store = ResultStore(plan.folder)
    assert ids_on(pixels, store.ids()) == store.ids()
    for number, top, left in ((0, 2 * LINE, 0), (9, 2 * LINE + 4 * STRIP, WIDTH + GAP)):
        part, place = plan.slice_at(number // 4), number % 4
        with ShardReader(part.shards[place]) as given:
            shown = [given.sample(part.rows[place]).views[plan.recipe.reference_view], *store[store.ids()[number]]]
        for k, picture in enumerate(shown):
            tile = pixels[top : top + TILE, left + k * TILE : left + (k + 1) * TILE].astype(float)
            assert abs(tile.mean((0, 1)) - picture.mean((0, 1))).max() < 2, (number, k)


def test_many_slices_show_a_bounded_number_of_samples_from_the_first_to_the_last(bench):
    bench.add_data("c.h5", range(100, 130))
    plan = bench.plan(slice_size=1)
    bench.work(plan)
    pixels = pixels_of(plan.folder)
    assert pixels.shape == (LINE + COLUMN * STRIP, 2 * WIDTH + GAP, 3)
    ids = ResultStore(plan.folder).ids()
    shown = ids_on(pixels, ids)
    assert len(shown) == ROWS and shown[0] == ids[0] and shown[-1] == ids[-1]
    places = [ids.index(name) for name in shown]
    assert {3, 4} >= set(np.diff(places).tolist())


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


def test_it_grows_with_the_set(bench):
    plan = bench.plan(slice_size=1)
    sheet = Sheet(plan, 0.0)
    bench.work_one_batch(plan)
    sheet.draw()
    few = pixels_of(plan.folder)
    bench.work(plan)
    sheet.draw()
    assert few.size < pixels_of(plan.folder).size
