"""The settings of a training run."""

from dataclasses import dataclass

from mvdiff.errors import InputError

FREE = frozenset(
    {"micro_batch", "save_every", "keep_last", "log_every", "readers", "ahead", "cache", "gradient_checkpointing"}
)
"""Settings that may change at a restart: how often a run logs and saves, how it reads ahead and cuts up its share."""

_CHOICES = {
    "schedule": ("constant", "cosine"),
    "reference_view": ("first", "random"),
    "mixed_precision": ("no", "bf16"),
    "trainable": ("full", "freeze_encoder", "lora"),
}


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained. Values come from ``configs/train/``.

    An ``InputError`` names the first field that makes no sense.
    """

    seed: int
    """Decides the order of samples and every draw."""
    fit_samples: int
    """Samples, the first of the order, on which the latent space of a new model is fitted."""
    steps: int
    """Optimizer steps of the whole run."""
    batch: int
    """Samples an optimizer step, over all ranks: the world size must divide it."""
    micro_batch: int
    """Most samples that one rank passes through the model at once; gradients accumulate over the rest of its share."""
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
    ema_decay: float
    """Decay a step of the averaged weights, the ones generation uses; it is approached from below in early steps."""
    condition_drop: float
    """Share of samples whose condition is withheld, for guidance."""
    reference_view: str
    """``first`` (the condition is always view 0) or ``random`` (any view; the others follow around the rig)."""
    mixed_precision: str
    """``no`` (float32) or ``bf16``, where the device has it."""
    trainable: str
    """``full``: the whole UNet; ``freeze_encoder``: all but its down blocks; ``lora``: a low-rank change of its
    attention, through peft. Camera injection and a learned prompt are trained in any case."""
    lora_rank: int
    """Rank of the LoRA."""
    lora_alpha: int
    """Its scale: the change is multiplied by alpha / rank."""
    gradient_checkpointing: bool
    """Compute activations again on the way back instead of keeping them: far less memory, a third more time."""
    threads: int
    """Compute threads a rank. Part of what is computed: another number rounds differently."""
    save_every: int
    """Steps between checkpoints: what an unwarned kill can cost."""
    keep_last: int
    """Checkpoints kept, newest first."""
    log_every: float
    """Seconds between log lines."""
    readers: int
    """Threads a rank that read and decode ahead of the step."""
    ahead: int
    """Steps whose samples are read ahead."""
    cache: int
    """MiB of decoded samples a rank keeps in memory."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"train.{name}={getattr(self, name)}", f"choose one of {', '.join(choices)}")
        for name in (
            "fit_samples",
            "steps",
            "batch",
            "micro_batch",
            "threads",
            "save_every",
            "keep_last",
            "readers",
            "ahead",
            "lora_rank",
            "lora_alpha",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}={getattr(self, name)}", "give a whole number of at least 1")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"train.{name}={getattr(self, name)}", "give a number above 0")
        for name in ("seed", "warmup_steps", "weight_decay", "log_every", "cache"):
            if not getattr(self, name) >= 0:
                raise InputError(f"train.{name}={getattr(self, name)}", "give a number of at least 0")
        for name in ("beta2", "ema_decay", "condition_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"train.{name}={getattr(self, name)}", "give a number from 0 up to, but below, 1")

    def share(self, world_size: int) -> int:
        """Samples of the global batch that each of ``world_size`` ranks takes."""
        if self.batch % world_size:
            fitting = [size for size in range(1, self.batch + 1) if self.batch % size == 0]
            raise InputError(
                f"train.batch={self.batch} cannot be shared evenly among {world_size} ranks",
                f"use {', '.join(map(str, fitting))} ranks, or another train.batch",
            )
        return self.batch // world_size
