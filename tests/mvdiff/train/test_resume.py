"""An interrupted run ends with the bits of an uninterrupted one."""

import pytest

from mvdiff.train.checkpoint import CheckpointStore, read_manifest
from mvdiff.train.journal import read_losses

END = "step-00000006"


@pytest.mark.parametrize("stops", [[1], [3, 2], [0, 0, 4]], ids=str)
def test_one_process(run, another, settings, stops):
    for stop_at in stops:
        assert run.train(settings(), stop_at) == "stopped"
    assert run.train(settings()) == "done"
    assert another.train(settings()) == "done"
    assert read_manifest(run.checkpoints / END) == read_manifest(another.checkpoints / END)
    assert read_losses(run.events) == read_losses(another.events)
    assert list(read_losses(run.events)) == list(range(6))


@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes(run, another, settings, drill, world_size):
    for rank, look in [(1, 1), (0, 3)]:
        ends = drill(run, settings(), world_size, stop=[rank, look])
        assert ends == [{"end": "stopped", "looks": look}] * world_size
    assert drill(run, settings(), world_size) == [{"end": "done", "looks": 1}] * world_size
    drill(another, settings(), world_size)
    assert read_manifest(run.checkpoints / END) == read_manifest(another.checkpoints / END)
    assert read_losses(run.events) == read_losses(another.events)


def test_world_sizes_that_change(run, another, settings, drill):
    for world_size, look in [(4, 2), (2, 2)]:
        ends = drill(run, settings(), world_size, stop=[0, look])
        assert {end["end"] for end in ends} == {"stopped"}
    assert run.train(settings()) == "done"
    another.train(settings())
    assert list(read_losses(run.events).values()) == pytest.approx(list(read_losses(another.events).values()), rel=1e-5)


def test_a_kill_at_every_boundary_of_a_save(tmp_path, run, another, settings, drill):
    plan = settings(steps=3, save_every=1, keep_last=1)
    boundaries: list[str] = []
    another.train(plan, on_boundary=boundaries.append)
    saves = [i for i, name in enumerate(boundaries) if name == "begun"]
    assert len(saves) == 4
    whole = read_manifest(another.checkpoints / "step-00000003")
    for boundary in range(saves[2], saves[3]):
        run.root = tmp_path / str(boundary)
        run.checkpoints = run.root / "checkpoints"
        assert drill(run, plan, kill=boundary) == [{"status": -9}]
        published = boundaries[saves[2] : boundary + 1].count("renamed")
        assert CheckpointStore(run.checkpoints).newest_good().name == f"step-0000000{1 + published}"
        assert drill(run, plan)[0]["end"] == "done"
        assert read_manifest(run.checkpoints / "step-00000003") == whole
        assert sorted(path.name for path in run.checkpoints.iterdir()) == [".lock", "step-00000003"]
