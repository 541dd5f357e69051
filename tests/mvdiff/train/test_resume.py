"""An interrupted run ends with the bits of an uninterrupted one."""

import shutil

import pytest

from mvdiff.shard import ShardDataset, ShardWriter
from mvdiff.train.checkpoint import CheckpointStore, read_manifest
from mvdiff.train.journal import read_losses
from mvdiff.train.position import read_history
from tests.mvdiff.train.conftest import write_shard

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


@pytest.mark.parametrize(("world_size", "stops"), [(2, [(1, 1), (0, 3)]), (4, [(2, 3)])])
def test_several_processes(run, another, settings, drill, world_size, stops):
    for rank, look in stops:
        ends = drill(run, settings(), world_size, stop=[rank, look])
        assert [(end["end"], end["looks"]) for end in ends] == [("stopped", look)] * world_size
    assert [answer["end"] for answer in drill(run, settings(), world_size)] == ["done"] * world_size
    drill(another, settings(), world_size)
    assert read_manifest(run.checkpoints / END) == read_manifest(another.checkpoints / END)
    assert read_losses(run.events) == read_losses(another.events)


def test_the_death_of_one_rank_ends_all_and_costs_one_interval(run, another, settings, drill):
    plan = settings(save_every=2)
    answers = drill(run, plan, 2, die=[1, 5])
    assert answers[1] == {"status": -9} and answers[0]["status"] > 0
    assert CheckpointStore(run.checkpoints).newest_good() == run.checkpoints / "step-00000004"
    drill(run, plan, 2)
    drill(another, plan, 2)
    assert read_manifest(run.checkpoints / END) == read_manifest(another.checkpoints / END)
    assert read_losses(run.events) == read_losses(another.events)


def test_the_same_samples_in_other_shards(tmp_path, run, another, settings):
    run.train(settings(), stop_at=3)
    another.train(settings())
    run.data = tmp_path / "repacked"
    samples = ShardDataset(another.data)
    with ShardWriter(run.data / "all.h5", size=samples.size, rig=samples.rig, codec="lz4", with_alpha=False) as writer:
        for row in reversed(range(len(samples))):
            writer.append(samples[row])
        writer.publish()
    assert run.train(settings()) == "done"
    assert read_manifest(run.checkpoints / END) == read_manifest(another.checkpoints / END)


def test_world_sizes_that_change(run, another, settings, drill):
    for world_size, look in [(4, 2), (2, 2)]:
        ends = drill(run, settings(micro_batch=1), world_size, stop=[0, look])
        assert {end["end"] for end in ends} == {"stopped"}
    assert run.train(settings(micro_batch=3)) == "done"
    another.train(settings())
    assert list(read_losses(run.events).values()) == pytest.approx(list(read_losses(another.events).values()), rel=1e-5)


def test_a_kill_at_every_boundary_of_a_save(new_run, run, another, settings, drill):
    plan = settings(steps=2, save_every=1, keep_last=1)
    boundaries: list[str] = []
    run.train(plan, stop_at=1)
    shutil.copytree(run.root, another.root)
    another.train(plan, on_boundary=boundaries.append)
    whole = read_manifest(another.checkpoints / "step-00000002")
    assert boundaries[0] == "begun" and boundaries[-1] == "deleted" and len(boundaries) > 10
    for number in range(len(boundaries)):
        victim = new_run(str(number))
        shutil.copytree(run.checkpoints, victim.checkpoints)
        assert drill(victim, plan, kill=number) == [{"status": -9}]
        published = "renamed" in boundaries[: number + 1]
        assert CheckpointStore(victim.checkpoints).newest_good().name == f"step-0000000{1 + published}"
        assert victim.train(plan) == "done"
        assert read_manifest(victim.checkpoints / "step-00000002") == whole, boundaries[number]
        assert sorted(path.name for path in victim.checkpoints.iterdir()) == [".lock", "step-00000002"]


@pytest.fixture
def demanding(settings, tmp_path_factory):
    """Everything that is drawn, tried or weighted at once; and the data sets for it."""
    folder = tmp_path_factory.mktemp("more")
    held_out, prior = (write_shard(folder / f"{name}.h5", range(*numbers)) for name, numbers in MORE.items())

    def build(**overrides):
        values = {
            "augment": {"flip": 0.5, "colour": 0.1, "crop": 0.9}, "prior_share": 0.25, "min_snr": 5.0,
            "freeze_encoder_epochs": 0.9, "save_every": 2,
            "validation": {"every": 2, "samples": 3, "batch": 1, "steps": 2, "sheet": 2},
        }  # fmt: skip
        return settings(**values | overrides)

    def equip(run):
        run.held_out, run.prior = held_out, prior

    return build, equip


MORE = {"held_out": (20, 24), "prior": (30, 37)}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_with_all_that_a_recipe_can_ask_for(run, another, demanding, drill, world_size):
    """Stopped in training and within validations, which look at the flag as well."""
    build, equip = demanding
    for one in (run, another):
        equip(one)
    for look in (1, 3, 4):
        ends = drill(run, build(), world_size, stop=[world_size - 1, look])
        assert {end["end"] for end in ends} == {"stopped"}
    assert {end["end"] for end in drill(run, build(), world_size)} == {"done"}
    drill(another, build(), world_size)
    assert read_manifest(run.checkpoints / END) == read_manifest(another.checkpoints / END)
    assert read_losses(run.events) == read_losses(another.events)
    found, expected = (read_history(one.checkpoints / END, one.validation).written() for one in (run, another))
    assert found == expected and [one["step"] for one in found] == [0, 2, 4, 6]


def test_every_world_size_sees_the_same_samples_and_noise(run, another, demanding, drill):
    """4, then 2, then 1 ranks, against 1 rank throughout."""
    build, equip = demanding
    for one in (run, another):
        equip(one)
    plan = build(validation={"every": 0})
    seen = []
    for world_size, look in ((4, 2), (2, 2), (1, None)):
        faults = {} if look is None else {"stop": [0, look]}
        seen += [drill(run, plan, world_size, record=True, **faults)]
    fed: dict[str, list[list[str]]] = {}
    for rank in (rank for start in seen for rank in start):
        for step, of in rank["fed"].items():
            fed[step] = sorted(fed.get(step, []) + of)
    [alone] = drill(another, plan, 1, record=True)
    assert fed == {step: sorted(of) for step, of in alone["fed"].items()}
    assert sorted(fed) == list("012345") and all(len(of) == 4 for of in fed.values())
    losses, expected = (read_losses(one.events) for one in (run, another))
    assert list(losses.values()) == pytest.approx(list(expected.values()), rel=1e-5)
