import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from mvdiff.train.weighting import loss_weights


def shares():
    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "linear")
    kept = scheduler.alphas_cumprod
    return scheduler, kept.sqrt(), (1 - kept).sqrt()


def test_without_it_all_timesteps_weigh_the_same():
    _, signal, spread = shares()
    assert torch.equal(loss_weights(signal, spread, None), torch.ones(1000))


def test_the_weights_are_those_of_diffusers_own_training_script_for_v():
    scheduler, signal, spread = shares()
    snr = compute_snr(scheduler, torch.arange(1000))
    expected = torch.stack([snr, torch.full_like(snr, 5.0)], 1).min(1)[0] / (snr + 1)
    torch.testing.assert_close(loss_weights(signal, spread, 5.0), expected, rtol=1e-4, atol=1e-7)


def test_pure_noise_weighs_nothing_and_is_a_number():
    signal, spread = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.75**0.5, 1.0])
    weights = loss_weights(signal, spread, 5.0)
    assert weights.isfinite().all() and weights[2] == 0
