from dataclasses import replace

import numpy as np
import pytest

from mvdiff.errors import InputError
from mvdiff.rig import rig
from mvdiff.shard import ShardDataset, ShardWriter
from mvdiff.train.fitness import refuse_misfit, refuse_unfit
from mvdiff.train.sources import Sources
from tests.mvdiff.train.conftest import SIZE, make_sample

LOPSIDED = {"name": "lopsided", "azimuth": [0, 50, 120, 180, 240, 300], "elevation": [0] * 6, "fov": 30,
            "distance": 1.87}  # fmt: skip


@pytest.fixture
def sources(data):
    return Sources(ShardDataset(data), None, None)


def written(path, size=SIZE, of="mouse"):
    taken = rig(of)
    sample = make_sample(0)
    sample = replace(
        sample, views=np.full((6, size, size, 3), 255, np.uint8), w2c=taken.w2c(), intrinsics=taken.intrinsics(size),
        azimuth=np.float32(taken.azimuth), elevation=np.float32(taken.elevation),
    )  # fmt: skip
    with ShardWriter(path, size=size, rig=taken.text, codec="raw", with_alpha=False) as writer:
        writer.append(sample)
        return ShardDataset(writer.publish())


def test_a_flip_needs_a_rig_that_is_its_own_mirror_image(settings, model_settings, sources):
    plan = settings(augment={"flip": 0.5})
    refuse_unfit(plan, model_settings, sources)
    lopsided = replace(model_settings, rig=LOPSIDED)
    refuse_unfit(settings(), lopsided, sources)
    with pytest.raises(InputError, match=r"^train\.augment\.flip=0\.5 .* lopsided .*: set train\.augment\.flip=0$"):
        refuse_unfit(plan, lopsided, sources)


def test_a_prior_and_its_share_are_given_together(settings, model_settings, sources):
    with_prior = replace(sources, prior=sources.training)
    refuse_unfit(settings(prior_share=0.25), model_settings, with_prior)
    with pytest.raises(InputError, match=r"^train\.prior_share=0\.25 .*: give prior=SHARDS"):
        refuse_unfit(settings(prior_share=0.25), model_settings, sources)
    with pytest.raises(InputError, match=r"^prior= is given, .*: set train\.prior_share"):
        refuse_unfit(settings(), model_settings, with_prior)


@pytest.mark.parametrize("key", ["prior", "validation"])
def test_every_data_set_is_of_the_model_s_rig_and_size(tmp_path, model_settings, sources, key):
    refuse_misfit(model_settings, replace(sources, **{key: sources.training}))
    other = written(tmp_path / "rig.h5", of="zero123plus-v1.2")
    with pytest.raises(InputError, match=rf"rig\.h5 was taken with .*zero123plus.*: give {key}= shards of the model's"):
        refuse_misfit(model_settings, replace(sources, **{key: other}))
    larger = written(tmp_path / "size.h5", size=2 * SIZE)
    with pytest.raises(InputError, match=rf"size\.h5 holds pictures of 64 pixels, .* 32: pack {key}= at the model's"):
        refuse_misfit(model_settings, replace(sources, **{key: larger}))


def test_training_data_of_another_rig_or_size_is_told_how_the_model_can_follow(tmp_path, model_settings, sources):
    other = written(tmp_path / "rig.h5", of="zero123plus-v1.2")
    with pytest.raises(InputError, match=r"set model\.rig='zero123plus-v1\.2', or give data"):
        refuse_misfit(model_settings, replace(sources, training=other))
    larger = written(tmp_path / "size.h5", size=2 * SIZE)
    with pytest.raises(InputError, match=r"set model\.size, or pack the data"):
        refuse_misfit(model_settings, replace(sources, training=larger))
