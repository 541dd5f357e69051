"""Camera injection: three ways into one pretrained UNet."""

from dataclasses import replace

import pytest
import torch

from mvdiff.model.camera import camera_features
from mvdiff.model.multiview import MultiViewModel
from tests.mvdiff.model.conftest import large_batch

INJECTIONS = ("adaln", "cross_attention", "concat")


def condition(model: MultiViewModel, batch):
    posterior = batch.noise["reference_posterior"]
    reference = model.refer(batch.reference, batch.glance, posterior)
    return model.condition(reference, model.blank(posterior), batch.timestep, batch.noise["reference"], batch.dropped)


def predict(model: MultiViewModel, batch, order=slice(None)):
    with torch.no_grad():
        noise = batch.noise["views"][:, order]
        return model.predict_v(noise, batch.timestep, batch.cameras, condition(model, batch))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_new_injection_leaves_the_pretrained_function_exactly_as_it_was(start, injection):
    model = start(camera=injection)
    batch = large_batch(model)
    untold = start(camera=injection)
    untold.camera = None
    if injection == "adaln":
        untold.unet.class_embedding = None
        untold.unet.register_to_config(class_embed_type=None)
    elif injection == "concat":
        narrow = torch.nn.Conv2d(4, untold.unet.conv_in.out_channels, 3, padding=1)
        narrow.weight.data, narrow.bias.data = untold.unet.conv_in.weight[:, :4].clone(), untold.unet.conv_in.bias
        untold.unet.conv_in = narrow
    # with a context for each view, or another convolution, sums are rounded otherwise
    tolerance = 0 if injection == "adaln" else 1e-5
    assert torch.allclose(predict(model, batch), predict(untold, batch), atol=tolerance)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_projection_learns_in_the_first_step(start, injection):
    model = start(camera=injection)
    model(large_batch(model)).mean().backward()
    assert model.camera.projection.weight.grad.abs().max() > 0
    assert model.camera.projection.bias.grad.abs().max() > 0


@pytest.mark.parametrize("injection", INJECTIONS)
def test_once_it_has_learnt_everything_before_it_does_too(start, injection):
    model = start(camera=injection)
    optimizer = torch.optim.SGD(model.camera.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(large_batch(model)).mean().backward()
        optimizer.step()
    assert all(weight.grad.abs().max() > 0 for weight in model.camera.parameters())


@pytest.mark.parametrize("injection", INJECTIONS)
def test_swapping_two_cameras_swaps_the_two_views(start, injection):
    model = start(camera=injection)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.camera.projection.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    batch = large_batch(model)
    order = [0, 4, 2, 3, 1, 5]
    straight = predict(model, batch)
    crossed = predict(model, replace(batch, cameras=batch.cameras[:, order]), order)
    assert (crossed - straight[:, order]).abs().max() < 1e-4
    # the cameras are what does it: without their swap the two views change
    unmoved = predict(model, batch, order)
    assert (unmoved - straight[:, order]).abs().max() > 1e-2


@pytest.mark.parametrize("injection", INJECTIONS)
def test_camera_embeds_are_as_wide_as_the_time_embedding(start, injection):
    model = start(camera=injection)
    embeds = model.camera.camera_embeds(large_batch(model).cameras)
    assert embeds.shape == (2, 6, 4 * model.unet.config["block_out_channels"][0])


def test_features_are_periodic_in_azimuth_and_zero_for_the_conditions_own_camera_but_for_the_cosine():
    cameras = torch.tensor([[0.0, 0.0, 0.0, 0.0], [350.0, 30.0, 0.5, -10.0], [-10.0, 30.0, 0.5, -10.0]])
    features = camera_features(cameras)
    assert features[0].tolist() == [0, 1, 0, 0, 0]
    assert torch.allclose(features[1], features[2], atol=1e-6)
    assert features[1, 3] == 0.5


def test_a_tile_takes_no_camera_and_stays_a_plain_published_unet(start):
    model = start(layout="tile", camera="none")
    assert model.camera is None
    assert model.unet.config["class_embed_type"] is None
    assert model.unet.config["in_channels"] == 4
