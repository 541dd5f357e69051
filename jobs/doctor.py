"""`mvdiff doctor`: what a model has of parameters and what it takes of GPU memory, before anything is queued."""

import functools
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from jobs.compose import composed, refuse_wrong, settings
from jobs.groups import choices
from jobs.job import JobFailed
from jobs.room import less_memory
from mvdiff.errors import InputError, counted
from mvdiff.generate.settings import GenerateSettings
from mvdiff.model.gpu import CARDS, GIB, Card, card
from mvdiff.model.settings import ModelSettings
from mvdiff.train.settings import TrainSettings
from slurm.cluster import Cluster

if TYPE_CHECKING:
    from mvdiff.model.memory import Generation

Figures = dict[str, Any]

_UNREAD = "any"
"""What stands for the folder of weights: all that it could hold have one architecture."""


@dataclass(frozen=True)
class Patient:
    """What is asked about."""

    model: ModelSettings
    train: TrainSettings
    generate: GenerateSettings
    card: Card
    ranks: int
    """GPUs that would train together."""

    @property
    def share(self) -> int:
        """Samples of a step on each GPU."""
        return self.train.share(self.ranks)

    @property
    def micro_batch(self) -> int:
        """Samples at once on each GPU."""
        return self.train.pass_size(self.ranks)

    def gradients_stay(self, micro_batch: int) -> bool:
        """Whether gradients of this step's earlier passes, or DDP's buckets, are in memory during a forward pass."""
        return self.train.gradients_stay(self.ranks, micro_batch)

    @property
    def generation(self) -> "Generation":
        """A call of the sampler."""
        from mvdiff.model.memory import Generation

        return Generation(self.generate.batch, self.generate.mixed_precision, self.generate.guidance)


def doctor(words: Sequence[str], as_json: bool) -> int:
    """Print what the configuration of ``words`` takes; returns the exit status.

    Raises:
        InputError: the request was wrong.
    """
    config = composed("doctor", [*words, f"model.pretrained={_UNREAD}"])
    patient = _patient(config)
    if config.measure:
        _refuse_no_gpu()
    figures = _estimates(patient)
    if config.measure:
        figures |= {"measured": _measurements(patient, figures)}
    if as_json:
        print(json.dumps({"job": "doctor", "state": "done", **figures}))
        return 0
    print(table(figures))
    given = {word.partition("=")[0] for word in words}
    assumed = {"model": (patient.model.name, choices("model")), "card": (patient.card.name, [*CARDS, "GiB"])}
    for key, (name, others) in assumed.items():
        if key not in given:
            print(f"{key}={name} was assumed: name yours with {key}=, of {', '.join(others)}")
    return 0


def _patient(config: DictConfig) -> Patient:
    if config.model.new is not None:
        config.model.pretrained = None
    for key in ("sampler", "steps", "guidance"):
        if config.generate[key] is None:
            config.generate[key] = config.model[key]
    refuse_wrong(config)
    training = settings(TrainSettings, config.train, "train")
    model = settings(ModelSettings, config.model, "model")
    generate = settings(GenerateSettings, config.generate, "generate")
    cluster = settings(Cluster, config.cluster, "cluster")
    return Patient(model, training, generate, card(config.card), cluster.nodes * cluster.tasks)


def _refuse_no_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "measure=true needs a GPU, and torch sees none here", "leave it away, or go where there is one"
        )


def _estimates(patient: Patient) -> Figures:
    from mvdiff.model.memory import sampling_peak
    from mvdiff.train.memory import footprint, largest_micro_batch

    asked = footprint(
        patient.train,
        patient.model,
        patient.micro_batch,
        gradients_stay=patient.gradients_stay(patient.micro_batch),
    )

    @functools.cache
    def peak(micro_batch: int) -> int:
        if micro_batch == patient.micro_batch:
            return asked.peak
        return footprint(patient.train, patient.model, micro_batch, gradients_stay=True).peak

    generation = patient.generation
    return {
        "model": patient.model.name,
        "parameters": asked.parameters,
        "trained": asked.trained,
        "training": {
            "micro_batch": patient.micro_batch,
            "mixed_precision": patient.train.mixed_precision,
            "trainable": patient.train.trainable,
            "gradient_checkpointing": patient.train.gradient_checkpointing,
            "weights_gib": _gib(asked.weights),
            "averages_gib": _gib(asked.averages),
            "moments_gib": _gib(asked.moments),
            "activations_and_gradients_gib": _gib(asked.rest),
            "peak_gib": _gib(asked.peak),
        },
        "generation": {
            "batch": generation.samples,
            "mixed_precision": generation.mixed_precision,
            "peak_gib": _gib(sampling_peak(patient.model, generation)),
        },
        "card": {
            "name": patient.card.name,
            "total_gib": _gib(patient.card.total),
            "room_gib": _gib(patient.card.room),
            "share": patient.share,
            "largest_micro_batch": largest_micro_batch(peak, patient.card.room, patient.micro_batch, patient.share),
        },
    }


def _measurements(patient: Patient, estimated: Figures) -> Figures:
    import torch

    from mvdiff.model.memory import Measurement, measured_sampling
    from mvdiff.train.memory import measured_step

    device = torch.device("cuda")
    try:
        step = measured_step(
            patient.train,
            patient.model,
            patient.micro_batch,
            device,
            gradients_stay=patient.gradients_stay(patient.micro_batch),
        )
        gc.collect()
        torch.cuda.empty_cache()
        generation = measured_sampling(patient.model, patient.generation, device)
    except torch.cuda.OutOfMemoryError as error:
        raise JobFailed(f"this GPU has too little memory to measure it: {str(error).splitlines()[0]}") from None

    def beside(found: Measurement, estimate: float) -> Figures:
        return {
            "peak_gib": _gib(found.allocated),
            "reserved_gib": _gib(found.reserved),
            "estimate_by_measurement": round(estimate * GIB / found.allocated, 3),
        }

    return {
        "gpu": torch.cuda.get_device_name(device),
        "training": beside(step, estimated["training"]["peak_gib"]),
        "generation": beside(generation, estimated["generation"]["peak_gib"]),
    }


def _gib(size: int) -> float:
    return round(size / GIB, 3)


_PRECISION = {"no": "float32", "bf16": "bfloat16"}


def table(figures: Figures) -> str:
    """``figures`` for people."""
    training, generation, card = figures["training"], figures["generation"], figures["card"]
    measured = figures.get("measured", {})
    how = f"{_PRECISION[training['mixed_precision']]}, train.trainable={training['trainable']}"
    if training["gradient_checkpointing"]:
        how += ", gradient checkpointing"
    rows = [(f"parameters of {figures['model']}", "millions")]
    rows += [(f"  {name}", f"{number / 1e6:.1f}") for name, number in figures["parameters"].items()]
    rows += [("  trained of all these", f"{figures['trained'] / 1e6:.1f}"), ("", "")]
    rows += [(f"a training step, micro_batch {training['micro_batch']}, {how}", "GiB")]
    for name in ("weights", "averages", "moments", "activations_and_gradients", "peak"):
        label = {"averages": "averaged weights", "moments": "AdamW's moments"}.get(name, name.replace("_", " "))
        rows.append((f"  {label}", f"{training[f'{name}_gib']:.1f}"))
    rows += _measured_rows(measured.get("training"), measured)
    how = f"{counted(generation['batch'], 'sample')} at once, {_PRECISION[generation['mixed_precision']]}"
    rows += [("", ""), (f"generating {how}", "GiB")]
    rows += [("  peak", f"{generation['peak_gib']:.1f}"), *_measured_rows(measured.get("generation"), measured)]
    width = max(len(label) for label, _ in rows) + 2
    lines = [f"{label:<{width}}{value:>8}".rstrip() for label, value in rows]
    return "\n".join([*lines, "", *_verdict(training, generation, card)])


def _measured_rows(found: Figures | None, measured: Figures) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [
        (f"  measured on {measured['gpu']}", f"{found['peak_gib']:.1f}"),
        ("  estimate / measurement", f"{found['estimate_by_measurement']:.2f}"),
        ("  taken from the GPU by torch", f"{found['reserved_gib']:.1f}"),
    ]


def _verdict(training: Figures, generation: Figures, card: Figures) -> list[str]:
    most, share = card["largest_micro_batch"], card["share"]
    way_out = less_memory(*(training[key] for key in ("mixed_precision", "gradient_checkpointing", "trainable")))
    lines = [f"{card['name']} has room for {card['room_gib']:.1f} GiB of tensors"]
    if most == 0:
        lines.append(f"  training does not fit, not even train.micro_batch=1: {way_out}")
    elif most < training["micro_batch"]:
        lines.append(f"  training fits with train.micro_batch={most}, not with {training['micro_batch']}")
    else:
        whole = ", a GPU's whole share of a step" if most == share else ""
        lines.append(f"  training fits; the largest train.micro_batch is {most}{whole}")
    fits = generation["peak_gib"] <= card["room_gib"]
    lines.append(f"  generation {'fits' if fits else 'does not fit: lower generate.batch'}")
    return lines
