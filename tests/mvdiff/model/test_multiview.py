from dataclasses import replace

import pytest
import torch

from mvdiff.model.build import create
from mvdiff.model.multiview import Condition
from tests.mvdiff.model.conftest import awake


def conditioned(model, batch):
    posterior = batch.noise.get("reference_posterior")
    reference = model.refer(batch.reference, batch.glance, posterior)
    return model.condition(
        reference, model.blank(posterior), batch.timestep, batch.noise.get("reference"), batch.dropped
    )


def predict(model, batch, condition=None, noise=None):
    """v of pure noise, [B, 6, C, h, w]."""
    noise = batch.noise["views"] if noise is None else noise
    condition = condition or conditioned(model, batch)
    with torch.no_grad():
        return model.predict_v(noise, batch.timestep, batch.cameras, condition)


def difference(a, b):
    return (a - b).abs().max().item()


def test_the_same_seed_gives_the_same_model_and_leaves_the_random_state_alone(settings, pictures):
    state = torch.random.get_rng_state()
    one, two, other = (create(settings(), iter(pictures(0, 4)), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.unet.conv_in.weight, other.unet.conv_in.weight)


def test_the_loss_is_one_figure_a_sample_and_a_pure_function_of_the_batch(model, batch):
    given = batch(model, 3)
    first = model(given)
    torch.randn(7)
    assert first.shape == (3,)
    assert torch.equal(first, model(given))


def test_a_samples_loss_does_not_depend_on_its_batch(model, batch):
    given = batch(model, 3)
    together = model(given)
    tensors = {name: value[1:2] for name, value in vars(given).items() if name != "noise"}
    alone = type(given)(**tensors, noise={name: noise[1:2] for name, noise in given.noise.items()})
    assert torch.allclose(model(alone), together[1:2], atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"camera": "cross_attention", "reference": "clean"}, {"camera": "concat", "reference": "noised"}]
)
def test_a_reference_that_rides_along_is_seen_as_after_a_pass_of_its_own(settings, pictures, batch, options):
    """Its own pass it has where it is not of the views' size, and in generation."""
    model = awake(create(settings(**options), iter(pictures(0, 4)), 0))
    given = replace(batch(model, 3), dropped=torch.tensor([False, True, False]))
    clean, noise = model.encoded(given).views, given.noise["views"]
    alpha = model.signal[given.timestep].view(-1, 1, 1, 1, 1)
    sigma = model.spread[given.timestep].view(-1, 1, 1, 1, 1)

    def apart():
        predicted = model.predict_v(
            alpha * clean + sigma * noise, given.timestep, given.cameras, conditioned(model, given)
        )
        return (predicted - alpha * noise + sigma * clean).square().mean((1, 2, 3, 4))

    def gradients(losses):
        model.zero_grad()
        losses.sum().backward()
        return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    losses, expected = model(given), apart()
    assert torch.allclose(losses, expected, rtol=1e-5)
    ours, theirs = gradients(losses), gradients(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], one, rtol=1e-3, atol=1e-6) for name, one in theirs.items())


def test_the_loss_of_a_perfect_prediction_is_zero(model, batch, monkeypatch):
    given = batch(model)
    clean = model.vae.encode(given.views.flatten(0, 1)).unflatten(0, (-1, 6))
    seen = {}

    def perfect(model, noisy, timestep, *given):
        # v from its definition (Salimans and Ho 2022): alpha eps - sigma x, with alpha x + sigma eps given.
        alpha = model.scheduler.alphas_cumprod[timestep].sqrt().view(-1, 1, 1, 1, 1)
        sigma = (1 - alpha.square()).sqrt()
        seen["noise"] = (noisy - alpha * clean) / sigma
        return alpha * seen["noise"] - sigma * clean

    monkeypatch.setattr(model, "both_passes", perfect)
    assert model(given).max().item() < 1e-6
    assert torch.allclose(seen["noise"], given.noise["views"], atol=1e-3)


def test_swapping_two_cameras_swaps_the_two_views(model, batch):
    given = batch(model)
    order = [0, 4, 2, 3, 1, 5]
    swapped = replace(given, cameras=given.cameras[:, order])
    straight, crossed = predict(model, given), predict(model, swapped, noise=given.noise["views"][:, order])
    assert difference(crossed, straight[:, order]) < 1e-5
    assert difference(straight[:, 1], straight[:, 4]) > 1e-3


@pytest.mark.parametrize(
    ("quantity", "amount"), [(0, 25.0), (1, 25.0), (2, 0.4), (3, 25.0)], ids=["azimuth", "elevation", "distance", "fov"]
)
def test_a_view_depends_on_its_camera(model, batch, quantity, amount):
    given = batch(model)
    moved = given.cameras.clone()
    moved[:, 2, quantity] += amount
    assert difference(predict(model, given)[:, 2], predict(model, replace(given, cameras=moved))[:, 2]) > 1e-3


def test_a_whole_turn_of_a_camera_changes_nothing(model, batch):
    given = batch(model)
    turned = replace(given, cameras=given.cameras - torch.tensor([360.0, 0, 0, 0]))
    assert difference(predict(model, given), predict(model, turned)) < 1e-4


def test_every_view_sees_every_other(model, batch):
    given = batch(model)
    straight = predict(model, given)
    for changed in range(6):
        noise = given.noise["views"].clone()
        noise[:, changed] += 1
        moved = (predict(model, given, noise=noise) - straight).abs().amax((0, 2, 3, 4))
        assert moved.min() > 1e-6


def test_samples_of_a_batch_do_not_see_each_other(model, batch):
    given = batch(model)
    noise = given.noise["views"].clone()
    noise[0] += 1
    assert difference(predict(model, given)[1], predict(model, given, noise=noise)[1]) < 1e-5


@pytest.mark.parametrize("reference", ["clean", "noised"])
def test_the_condition_reaches_the_views_by_attention_alone(settings, pictures, batch, reference):
    given_settings = settings(reference=reference, condition_channels=False)
    model = create(given_settings, iter(pictures(0, 4)), 0).eval()
    given = batch(model)
    mine = conditioned(model, given)
    others = conditioned(model, replace(given, reference=given.reference.flip(0)))
    mixed = replace(mine, seen=others.seen)
    assert difference(predict(model, given, mine), predict(model, given, mixed)) > 1e-5


def test_the_condition_reaches_the_views_by_context_and_by_channels(model, batch):
    given = batch(model)
    mine = conditioned(model, given)
    others = conditioned(model, replace(given, reference=given.reference.flip(0)))
    straight = predict(model, given, mine)
    assert difference(straight, predict(model, given, replace(mine, context=others.context))) > 1e-5
    assert difference(straight, predict(model, given, replace(mine, latents=others.latents))) > 1e-5


def test_a_clean_reference_is_seen_alike_at_every_timestep(model, batch):
    given = batch(model)
    early, late = conditioned(model, given), conditioned(model, replace(given, timestep=given.timestep * 0))
    assert all(torch.equal(early.seen[layer], late.seen[layer]) for layer in early.seen)


def test_a_noised_reference_takes_noise_of_its_own_and_follows_the_timestep(settings, pictures, batch):
    model = create(settings(reference="noised"), iter(pictures(0, 4)), 0).eval()
    given = batch(model)
    assert given.noise["reference"].shape == given.noise["views"].shape[:1] + given.noise["views"].shape[2:]
    early, late = conditioned(model, given), conditioned(model, replace(given, timestep=given.timestep * 0))
    assert all(difference(early.seen[layer], late.seen[layer]) > 1e-3 for layer in early.seen)


def test_a_dropped_condition_leaves_nothing_of_the_picture(model, batch):
    given = batch(model)
    dropped = replace(given, dropped=torch.tensor([True, False]))
    other = replace(dropped, reference=255 - dropped.reference)
    before, after = predict(model, dropped), predict(model, other)
    assert torch.equal(before[0], after[0])
    assert difference(before[1], after[1]) > 1e-3
    assert difference(before[0], predict(model, given)[0]) > 1e-4


def test_gradients_reach_every_weight_in_the_first_step(model, batch):
    given = batch(model, 2)
    model(given).mean().backward()
    # The weights of the unconditional prompt take part even where no condition is dropped, as DDP wants.
    untouched = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert untouched == []
    assert all(weight.grad.abs().max() > 0 for weight in model.camera.parameters())
    assert all(weight.grad is None for weight in model.vae.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(model, batch):
    given = batch(model)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        model.train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        model(given).mean().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_the_schedule_ends_in_pure_noise(model):
    assert model.signal[-1].item() == pytest.approx(0, abs=1e-6)
    assert model.signal[0].item() > 0.99


def test_it_learns(model, batch):
    given = batch(model, 2)
    given = replace(given, timestep=torch.tensor([900, 999]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(given).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_rows_of_a_condition_hold_no_memory_of_others():
    condition = Condition(torch.zeros(1), torch.zeros(1), {"a": torch.arange(8.0).view(4, 2), "b": torch.zeros(4, 1)})
    for number in (1, 3, 4):
        rows = condition.rows(number)
        assert [row.seen["a"].tolist() for row in rows] == [[[2 * k, 2 * k + 1]] for k in range(number)]
        assert rows[0].seen["a"].untyped_storage().nbytes() == 8 * number
