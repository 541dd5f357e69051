"""Damaged results are made again: what is bad, nothing else, and to the same bytes."""

import pytest

from mvdiff.generate import sample_seed, status
from mvdiff.generate.audit import audit
from mvdiff.generate.repair import take_back
from mvdiff.shard import ShardReader


def flip(path, sample_id):
    """Damage the pictures of one row of a shard."""
    with ShardReader(path) as reader:
        row = reader.ids().index(sample_id)
        dataset = reader._opened().datasets["views"]
        offset = dataset.id.get_chunk_info_by_coord((row, 0, 0, 0, 0)).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", ["row", "header", "cut", "gone"])
def test_exactly_what_is_bad_or_missing_is_made_again(bench, calm, sampler, harm):
    plan = bench.plan()
    assert bench.work(plan) == "done"
    path = plan.folder / "slice-0000-000001.h5"
    if harm == "row":
        flip(path, "mouse-005")
    elif harm == "header":
        path.write_bytes(path.read_bytes()[:600] + b"\xff" + path.read_bytes()[601:])
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    found = audit(plan.folder)
    assert found.missing == (["mouse-005"] if harm == "row" else [f"mouse-{k:03d}" for k in range(4, 8)])
    assert take_back(plan.folder, found.flawed) == len(found.flawed) == (harm != "gone")
    calls = []

    def watched(images, seeds):
        calls.append(seeds)
        return sampler(images, seeds)

    assert bench.work(plan, "repairing", watched) == "done"
    assert bench.hashes(plan.folder) == calm
    again = audit(plan.folder)
    assert (again.missing, again.flawed, again.good) == ([], [], 10)
    assert status(plan.folder).done == 10
    assert {path.name for path in plan.folder.rglob("*") if path.is_file() and path.suffix == ".h5"} == set(calm)
    if harm == "row":
        assert calls == [[sample_seed(bench.recipe.seed, "mouse-005")] * 2], "its neighbour's place is filled with it"
    else:
        assert len(calls) == 2
