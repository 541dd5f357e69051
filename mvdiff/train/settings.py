"""The settings of a training run."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from mvdiff.errors import InputError, refuse

FREE = frozenset(
    {
        "micro_batch", "save_every", "keep_last", "keep_best", "keep_every", "log_every", "readers", "ahead", "cache",
        "gradient_checkpointing", "compile", "deterministic", "validation.batch", "validation.sheet",
    }
)  # fmt: skip
"""Settings that may change at a restart: how often a run logs and saves, how it reads ahead and cuts up its share."""

_CHOICES = {
    "schedule": ("constant", "cosine"),
    "reference_view": ("first", "random"),
    "mixed_precision": ("no", "bf16"),
    "trainable": ("full", "freeze_encoder", "lora"),
}


_TOO_MANY = 10**9


@dataclass
class AugmentSettings:
    """How samples are varied. The condition and its six targets are varied alike, and their cameras follow.

    Not frozen, as the next one: OmegaConf makes a frozen part of a configuration read-only before it has filled it in.
    """

    flip: float
    """Share of samples that are mirrored: each picture left to right, and the order of the views with it."""
    colour: float
    """Brightness, contrast, saturation and hue of the subject are changed by at most this share; white stays white."""
    crop: float
    """Least side of a random square that is cut out and enlarged, as a share of the picture; 1: none."""

    def __post_init__(self) -> None:
        limits = {"flip": (0, 1), "colour": (0, 0.5), "crop": (0.5, 1)}
        refuse(error for name, (low, high) in limits.items() for error in _within(self, "augment.", name, low, high))


@dataclass
class ValidationSettings:
    """How the model is tried on held-out samples while it trains."""

    every: int
    """Steps between validations, of which the first is at step 0 and the last at the end; 0: none."""
    samples: int
    """Held-out samples that are generated each time, always the same ones from the same seeds."""
    batch: int
    """Samples generated at once by one rank."""
    steps: int | None
    """Sampling steps; null: the model's own."""
    guidance: float | None
    """Guidance; null: the model's own."""
    patience: int
    """Training stops after so many validations in a row without a better foreground PSNR; 0: never."""
    sheet: int
    """Samples on the contact sheet."""

    def __post_init__(self) -> None:
        wrong = [*_whole(self, "validation.", ("samples", "batch", "sheet"), 1)]
        wrong += _whole(self, "validation.", ("every", "patience"), 0)
        if self.steps is not None:
            wrong += _whole(self, "validation.", ("steps",), 1)
        if self.guidance is not None:
            wrong += _within(self, "validation.", "guidance", 0, 100)
        refuse(wrong)


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained. Values come from ``configs/train/``.

    An ``InputError`` names the fields that make no sense.
    """

    seed: int
    """Decides the order of samples and every draw."""
    fit_samples: int
    """Samples, the first of the order, on which the latent space of a new model is fitted."""
    steps: int | None
    """Optimizer steps of the whole run; null where epochs say how long it is."""
    epochs: float | None
    """How often every sample is seen in the whole run; null where steps say how long it is."""
    batch: int
    """Samples an optimizer step, over all ranks: the world size must divide it."""
    micro_batch: int
    """Most samples that one rank passes through the model at once; gradients accumulate over the rest of its share."""
    prior_share: float
    """Share of each batch that comes from a second data set (prior=), so that what was known is not forgotten."""
    learning_rate: float
    """Peak learning rate of AdamW."""
    schedule: str
    """What follows the warm-up: ``constant``, or ``cosine`` down to zero at the last step."""
    warmup_steps: int
    """Steps over which the learning rate rises linearly."""
    beta2: float
    """AdamW's decay of the second moments; a short run wants it further from 1."""
    weight_decay: float
    """AdamW's decoupled weight decay."""
    max_grad_norm: float
    """Gradients are scaled down to this norm when they exceed it."""
    min_snr: float | None
    """Timesteps of a signal-to-noise ratio above this one weigh less in the loss (min-SNR weighting, usually 5); null:
    all weigh the same."""
    ema_decay: float
    """Decay a step of the averaged weights, the ones generation uses; it is approached from below in early steps."""
    condition_drop: float
    """Share of samples whose condition is withheld, for guidance."""
    reference_view: str
    """``first`` (the condition is always view 0) or ``random`` (any view; the others follow around the rig)."""
    augment: AugmentSettings
    mixed_precision: str
    """``no`` (float32) or ``bf16``, where the device has it."""
    trainable: str
    """``full``: the whole UNet; ``freeze_encoder``: all but its down blocks; ``lora``: a low-rank change of its
    attention, through peft. Camera injection and a learned prompt are trained in any case."""
    freeze_encoder_epochs: float
    """Epochs at the start in which the UNet's down blocks stay as they are, where the whole UNet is trained."""
    lora_rank: int
    """Rank of the LoRA."""
    lora_alpha: int
    """Its scale: the change is multiplied by alpha / rank."""
    gradient_checkpointing: bool
    """Compute activations again on the way back instead of keeping them: far less memory, a third more time."""
    compile: bool
    """Run the network compiled, which every node does once at first: minutes, repaid by large models in long runs."""
    deterministic: bool
    """Take only kernels that give the same bits each time, so that on GPUs too a run that was interrupted ends with the
    weights of one that was not; slower."""
    threads: int
    """Compute threads a rank. Part of what is computed: another number rounds differently."""
    validation: ValidationSettings
    save_every: int
    """Steps between checkpoints: what an unwarned kill can cost."""
    keep_last: int
    """Checkpoints kept, newest first."""
    keep_best: int
    """Checkpoints kept beside those, best foreground PSNR in validation first."""
    keep_every: int
    """Checkpoints of steps that this number divides are kept for ever; 0: none."""
    log_every: float
    """Seconds between log lines."""
    readers: int
    """Threads a rank that read, decode and vary samples ahead of the step."""
    ahead: int
    """Steps whose samples are read ahead."""
    cache: int
    """MiB of decoded samples a rank keeps in memory."""

    def __post_init__(self) -> None:
        refuse(list(self._wrong_alone()) or self._wrong_together())

    def _wrong_alone(self) -> Iterator[InputError]:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                yield InputError(f"train.{name}={getattr(self, name)}", f"choose one of {', '.join(choices)}")
        if (self.steps is None) == (self.epochs is None):
            yield InputError(f"train.steps={self.steps} and train.epochs={self.epochs}", "set one of them to null")
        yield from _whole(self, "", ("steps",) if self.steps is not None else (), 1)
        yield from _whole(self, "", ("fit_samples", "batch", "micro_batch", "threads", "save_every", "keep_last"), 1)
        yield from _whole(self, "", ("readers", "ahead", "lora_rank", "lora_alpha"), 1)
        yield from _whole(self, "", ("seed", "warmup_steps", "keep_best", "keep_every", "cache"), 0)
        positive = ("learning_rate", "max_grad_norm", "epochs", "min_snr")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not 0 < value < (_TOO_MANY if name == "epochs" else math.inf):
                yield InputError(f"train.{name}={value}", "give a number above 0")
        for name in ("weight_decay", "log_every", "freeze_encoder_epochs"):
            if not 0 <= getattr(self, name) < _TOO_MANY:
                yield InputError(f"train.{name}={getattr(self, name)}", "give a number of at least 0")
        for name in ("beta2", "ema_decay", "condition_drop", "prior_share"):
            if not 0 <= getattr(self, name) < 1:
                yield InputError(f"train.{name}={getattr(self, name)}", "give a number from 0 up to, but below, 1")

    def _wrong_together(self) -> Iterator[InputError]:
        if self.prior_share and not self.prior_batch:
            yield InputError(
                f"train.prior_share={self.prior_share} of a batch of {self.batch} is not one sample",
                "give a larger share or batch, or 0",
            )
        if self.prior_batch == self.batch:
            yield InputError(
                f"train.prior_share={self.prior_share} leaves no sample of {self.batch} for the data", "give less"
            )

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """From plain values, as a configuration file or a checkpoint holds them."""
        return cls(
            **{
                **values,
                "augment": AugmentSettings(**values["augment"]),
                "validation": ValidationSettings(**values["validation"]),
            }
        )

    @property
    def prior_batch(self) -> int:
        """Samples of each batch that come from the second data set."""
        return round(self.prior_share * self.batch)

    @property
    def own_batch(self) -> int:
        """Samples of each batch that come from the data set that is learnt."""
        return self.batch - self.prior_batch

    @property
    def last_step(self) -> int:
        """``steps``, once ``sized`` has made them a number."""
        assert self.steps is not None
        return self.steps

    def sized(self, samples: int) -> Self:
        """The same settings with ``steps`` for a data set of ``samples``, rounded up, in place of ``epochs``."""
        if self.epochs is None:
            return self
        return replace(self, steps=math.ceil(self.epochs * samples / self.own_batch - 1e-9), epochs=None)

    def frozen_steps(self, samples: int) -> int:
        """Steps at the start in which the UNet's down blocks stay as they are, for a data set of ``samples``."""
        return math.ceil(self.freeze_encoder_epochs * samples / self.own_batch - 1e-9)

    def share(self, world_size: int) -> int:
        """Samples of the global batch that each of ``world_size`` ranks takes."""
        if self.batch % world_size:
            fitting = [size for size in range(1, self.batch + 1) if self.batch % size == 0]
            raise InputError(
                f"train.batch={self.batch} cannot be shared evenly among {world_size} ranks",
                f"use {', '.join(map(str, fitting))} ranks, or another train.batch",
            )
        return self.batch // world_size

    def pass_size(self, world_size: int) -> int:
        """Samples that each of ``world_size`` ranks passes at once."""
        return min(self.micro_batch, self.share(world_size))

    def gradients_stay(self, world_size: int, micro_batch: int) -> bool:
        """Whether gradients of a step's earlier passes, or DDP's buckets, are in memory during a forward pass."""
        return world_size > 1 or micro_batch < self.share(world_size)


def _whole(settings: object, prefix: str, names: Iterable[str], least: int) -> Iterator[InputError]:
    for name in names:
        if not least <= getattr(settings, name) < _TOO_MANY:
            yield InputError(
                f"train.{prefix}{name}={getattr(settings, name)}",
                f"give a whole number of at least {least}, below a thousand million",
            )


def _within(settings: object, prefix: str, name: str, low: float, high: float) -> Iterator[InputError]:
    if not low <= getattr(settings, name) <= high:
        yield InputError(f"train.{prefix}{name}={getattr(settings, name)}", f"give a number from {low:g} to {high:g}")
