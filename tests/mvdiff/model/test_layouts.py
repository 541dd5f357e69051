"""One set of weights in two layouts."""

from dataclasses import replace

import pytest
import torch

from mvdiff.model.layout import tile
from tests.mvdiff.model.conftest import large_batch, smooth_picture


def test_both_layouts_hold_the_same_weights(start):
    tiled, apart = start(layout="tile", camera="none"), start()
    ours, theirs = tiled.unet.state_dict(), apart.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_self_attention_over_a_tile_is_joint_attention_over_its_views(start):
    """FACTS of the architecture: convolutions and norms differ between layouts, attention does not."""
    model = start()
    layer = next(m for name, m in model.unet.named_modules() if name.endswith("attn1"))
    from mvdiff.model.attention import Joint

    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 6, 32, 4, 4, generator=generator)  # [B, 6, width, h, w]
    reference = {layer.processor.layer: torch.randn(2, 16, 32, generator=generator)}
    flat = views.flatten(3).transpose(2, 3)  # [B, 6, h w, width]
    apart = layer(flat.flatten(0, 1), cross_attention_kwargs={}, joint=Joint(views=6, reference=reference))
    tiled = tile(views, range(6)).flatten(2).transpose(1, 2)  # [B, 3h 2w, width]
    together = layer(tiled, joint=Joint(views=1, reference=reference))
    again = apart.unflatten(0, (2, 6)).transpose(2, 3).unflatten(3, (4, 4))
    assert torch.allclose(tile(again, range(6)).flatten(2).transpose(1, 2), together, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"layout": "tile", "camera": "none"}], ids=["views", "tile"])
def test_samples_of_a_batch_do_not_touch_each_other(start, options):
    model = start(**options)
    batch = large_batch(model, samples=3)
    with torch.no_grad():
        together = model(batch)
        changed = replace(batch, views=batch.views.clone())
        changed.views[0] = 255 - changed.views[0]
        assert torch.allclose(model(changed)[1:], together[1:], atol=1e-5)
        assert (model(changed)[0] - together[0]).abs() > 1e-3


@pytest.mark.parametrize("options", [{}, {"layout": "tile", "camera": "none"}], ids=["views", "tile"])
def test_a_dropped_condition_is_what_sampling_calls_unconditional(start, options):
    model = start(**options)
    batch = large_batch(model, samples=2)
    # the unconditional reference has noise of its own in sampling; give both the same here
    noise = {name: value[:1].expand_as(value).clone() for name, value in batch.noise.items()}
    batch = replace(batch, noise=noise, timestep=batch.timestep[:1].expand(2), dropped=torch.tensor([True, False]))
    with torch.no_grad():
        posterior = batch.noise["reference_posterior"]
        reference = model.refer(batch.reference, batch.glance, posterior)
        blank = model.blank(posterior[:1])
        trained = model.condition(reference, blank, batch.timestep, noise["reference"], batch.dropped)
        sampled = model.unconditional(blank, batch.timestep[:1], noise["reference"][:1])
        assert torch.allclose(trained.context[:1], sampled.context)
        assert all(torch.allclose(trained.seen[layer][:1], sampled.seen[layer], atol=1e-5) for layer in sampled.seen)
        views = batch.noise["views"]
        shared = model.predict_v(views, batch.timestep, batch.cameras, sampled)
        own = model.predict_v(views, batch.timestep, batch.cameras, trained)
    # one row of the shared condition serves both samples; only the first was dropped in training
    assert torch.allclose(shared[0], own[0], atol=1e-4)
    assert (shared[1] - own[1]).abs().max() > 1e-2


@pytest.mark.parametrize("options", [{}, {"layout": "tile", "camera": "none"}], ids=["views", "tile"])
def test_gradient_checkpointing_changes_no_gradient(start, options):
    gradients = []
    for checkpointing in (False, True):
        model = start(**options).train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        model(large_batch(model)).mean().backward()
        gradients.append({name: p.grad for name, p in model.unet.named_parameters()})
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max().clamp_min(1e-4)
        assert (gradient - gradients[1][name]).abs().max() < 1e-4 * scale, name
    # the reference pass is part of it: its layers' keys learn through the stored states
    assert gradients[1]["conv_in.weight"].abs().max() > 0


def test_slots_say_which_view_stands_where(start):
    model = start(layout="tile", camera="none", mapping=[1, 0, 2, 3, 4, 5])
    plain = start(layout="tile", camera="none")
    batch = large_batch(model)
    swap = [1, 0, 2, 3, 4, 5]
    swapped = replace(batch, views=batch.views[:, swap], noise=dict(batch.noise))
    for name in ("views", "views_posterior"):
        swapped.noise[name] = batch.noise[name][:, swap]
    with torch.no_grad():
        assert torch.allclose(model(batch), plain(swapped), atol=1e-5)
        assert not torch.allclose(model(batch), plain(batch), atol=1e-3)


def test_views_come_back_as_they_went_in_through_the_autoencoder(start):
    """Not an identity with random weights, but the same whether views are encoded alone or in company."""
    model = start()
    views = torch.from_numpy(smooth_picture(3)[None, None].repeat(6, 1))
    views[:, 2] = torch.from_numpy(smooth_picture(4))
    noise = torch.zeros(1, 6, 4, 8, 8)
    with torch.no_grad():
        latents = model.space.encode(views, noise)
        assert torch.allclose(latents[:, 0], latents[:, 1], atol=1e-5)
        assert (latents[:, 0] - latents[:, 2]).abs().max() > 0.1
        decoded = model.space.decode(latents)
    assert decoded.shape == views.shape and decoded.dtype == torch.uint8
