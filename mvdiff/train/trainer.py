"""The training loop. Read ``train`` and ``Trainer.run`` first: the rest is what they call."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mvdiff.errors import InputError
from mvdiff.events import EventLog
from mvdiff.model.build import create
from mvdiff.model.settings import ModelSettings
from mvdiff.shard import CorruptRow, ShardDataset
from mvdiff.train import record
from mvdiff.train.checkpoint import CheckpointStore, SaveFailed, checkpoint_hash, step_of
from mvdiff.train.draw import Chance
from mvdiff.train.feed import Feed
from mvdiff.train.fitness import refuse_misfit, refuse_unfit
from mvdiff.train.journal import Journal
from mvdiff.train.order import Order
from mvdiff.train.schedule import learning_rate
from mvdiff.train.settings import TrainSettings
from mvdiff.train.state import TrainingState
from mvdiff.train.world import Group, World, joined

End = Literal["done", "stopped"]


_MAKE_ROOM = "make room, then start the run again: it goes on from its last good checkpoint"


class Diverged(Exception):
    """The loss or its gradients are no longer finite; the last good checkpoint is as it was."""


def train(
    settings: TrainSettings,
    model_settings: ModelSettings,
    data: Path,
    checkpoints: Path,
    events: EventLog,
    log: Callable[[str], None],
    world: World,
    should_stop: Callable[[], bool],
    on_boundary: Callable[[str], None] = lambda _name: None,
) -> End:
    """Train a model on the shards ``data`` until ``settings.steps``, or until any rank ``should_stop``.

    Starts afresh in an empty folder ``checkpoints``, otherwise goes on from the newest good checkpoint there. All ranks
    stop after the same step, with a checkpoint of it, and the call returns ``"stopped"``; called again with the same
    arguments, at whatever world size, the run goes on. A finished run returns ``"done"`` at once.

    ``events`` belongs to this rank alone; ``log`` takes lines for people. Wrong input, a checkpoint folder of another
    run and a disk too full for the last checkpoint raise ``InputError``; ``Diverged`` ends a run whose numbers are no
    longer finite. ``on_boundary`` is called with a name between any two steps of a save that a kill could separate.
    """
    settings.share(world.world_size)
    dataset = ShardDataset(data)
    refuse_misfit(model_settings, dataset, data)
    refuse_unfit(settings, model_settings)
    torch.set_num_threads(settings.threads)
    store = CheckpointStore(checkpoints, log, on_boundary)
    try:
        with joined(world, settings.mixed_precision) as group, ExitStack() as until_the_end:
            group.decide(lambda: until_the_end.enter_context(store.held()))
            return Trainer(settings, model_settings, dataset, store, events, log, group).run(should_stop)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"the disk of the run is full ({error})", _MAKE_ROOM) from error


class Trainer:
    """One rank of a training run."""

    def __init__(
        self,
        settings: TrainSettings,
        model_settings: ModelSettings,
        dataset: ShardDataset,
        store: CheckpointStore,
        events: EventLog,
        log: Callable[[str], None],
        group: Group,
    ) -> None:
        self.settings, self.model_settings, self.dataset = settings, model_settings, dataset
        self.store, self.events, self.log, self.group = store, events, log, group
        self.order = Order(dataset.ids, settings.seed)
        self.loss: float | None = None
        """Mean loss of the last step's global batch; None before the first one of this start."""
        self.journal = Journal(events, log, settings.steps, settings.batch, len(dataset), settings.log_every)

    def run(self, should_stop: Callable[[], bool]) -> End:
        """Set up, then step until the end or a stop."""
        self.saved: int = self.group.decide(self._open)
        if self.saved >= self.settings.steps:
            return "done"
        state = self.state = TrainingState.read(
            self.store.path(self.saved), self.settings, self.model_settings, self.group.device
        )
        self.model = self.group.accelerator.prepare(state.model)
        if self.group.rank == 0:
            self.log(self._how())
        with self._feed() as feed:
            self.journal.start()
            while state.step < self.settings.steps:
                if self.group.any(should_stop()):
                    self.events.write("stopping", step=state.step)
                    if self.saved != state.step:
                        self._save(must=True)
                    return self._end("stopped")
                self._step(feed)
                if state.step % self.settings.save_every == 0 and state.step < self.settings.steps:
                    self._save(must=False)
        self._save(must=True)
        return self._end("done")

    def _step(self, feed: Feed) -> None:
        """One optimizer step of the global batch; every rank learns every loss, and they stop together."""
        accelerator, step = self.group.accelerator, self.state.step
        waited = feed.waited
        batches = feed.take(step)
        samples = sum(len(batch.sample_ids) for batch in batches)
        row = []
        for batch in batches:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(self.model):
                losses = self.model(batch.to(self.group.device))  # [B]
                accelerator.backward(losses.sum() / samples)
            row.append(losses.detach().double().cpu())
        row.append(torch.tensor([feed.waited - waited], dtype=torch.float64))
        gathered = self.group.gather(torch.cat(row))  # [world size, samples + 1]
        losses, waits = gathered[:, :-1].flatten(), gathered[:, -1]  # [global batch], [world size]
        norm = float(accelerator.clip_grad_norm_(self.state.trained.values(), self.settings.max_grad_norm))
        if not (losses.isfinite().all() and np.isfinite(norm)):
            raise self._diverged(losses.tolist(), norm)
        self.loss = float(losses.mean())
        self.state.advance()
        if self.group.rank == 0:
            rate = learning_rate(step, self.settings)
            self.journal.step(step, self.loss, norm, rate, float(waits.max()))

    def _how(self) -> str:
        """What is trained on what, in one line."""
        trained = sum(weight.numel() for weight in self.state.trained.values())
        every = sum(weight.numel() for weight in self.state.model.parameters())
        device = self.group.device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        precision = {"no": "float32", "bf16": "bfloat16"}[self.settings.mixed_precision]
        return (
            f"{self.model_settings.name}: {trained / 1e6:.1f} of {every / 1e6:.1f} million weights trained "
            f"({self.settings.trainable}), {precision}, {self.group.world_size} x {where}"
        )

    def _open(self) -> int:
        """Find the step to go on from, or make a new model and save it as step 0: every rank starts by loading."""
        settings = self.settings
        newest = self.store.newest_good()
        self.record = record.describe(settings, self.model_settings, self.dataset, newest)
        if newest is None:
            self.log(f"starting a new run of {settings.steps} steps on {len(self.dataset)} samples")
            model = create(self.model_settings, self._fitting_views(), settings.seed)
            self.state = TrainingState(model, settings, torch.device("cpu"))
            self.events.write("started", world_size=self.group.world_size, **self.record["data"])
            if problem := self._try_to_save():
                raise InputError(problem, _MAKE_ROOM)
            return 0
        record.refuse_another(newest, self.record)
        step = step_of(newest)
        self.store.tidy(step, settings.keep_last)
        if step >= settings.steps:
            self.log(f"already done: {newest} holds step {step} of {settings.steps}")
        else:
            self.log(f"going on from {newest.name} of {settings.steps} steps")
            self.events.write("resumed", step=step, checkpoint=newest.name, world_size=self.group.world_size)
        return step

    def _save(self, must: bool) -> None:
        """Publish the state as it is; where ``must``, failing to do so ends the run."""
        problem = self.group.decide(self._try_to_save)
        if problem is None:
            self.saved = self.state.step
        elif must:
            raise InputError(problem, _MAKE_ROOM)
        else:
            self.log(f"{problem}; going on, the next try is after {self.settings.save_every} steps")

    def _try_to_save(self) -> str | None:
        self.journal.flush()
        start = time.monotonic()
        try:
            path = self.store.save(
                self.state.step,
                lambda folder: self.state.write(folder, self.record, self.loss, self.store.boundary),
                self.settings.keep_last,
            )
        except SaveFailed as error:
            self.events.write("save failed", step=self.state.step, why=str(error))
            return str(error)
        seconds = round(time.monotonic() - start, 3)
        self.events.write(
            "checkpoint", step=self.state.step, name=path.name, hash=checkpoint_hash(path), seconds=seconds
        )
        return None

    def _end(self, end: End) -> End:
        self.events.write(end, step=self.state.step)
        if self.group.rank == 0:
            self.log(f"{end} at step {self.state.step} of {self.settings.steps}: {self.store.path(self.state.step)}")
        return end

    def _feed(self) -> Feed:
        settings, model = self.settings, self.state.model
        chance = Chance(
            seed=settings.seed,
            timesteps=model.num_train_timesteps,
            condition_drop=settings.condition_drop,
            random_reference=settings.reference_view == "random",
            noise_shapes=model.noise_shapes,
        )
        return Feed(
            self.dataset,
            self.order,
            chance,
            settings,
            model.sight,
            self.group.rank,
            self.group.world_size,
            self._quarantine,
        )

    def _quarantine(self, sample_id: str, why: str) -> None:
        self.log(f"sample {sample_id} is left out: {why}")
        self.events.write("quarantined", sample_id=sample_id, why=why)

    def _fitting_views(self) -> Iterator[NDArray[np.uint8]]:
        """Views uint8 [6, H, W, 3] of the first ``fit_samples`` good samples of the order."""

        def good() -> Iterator[NDArray[np.uint8]]:
            for position in range(len(self.dataset)):
                with suppress(CorruptRow):
                    # a copy: torch warns of arrays that are read-only, as a shard's are
                    yield self.dataset[self.order.place(position).row].views.copy()

        return islice(good(), self.settings.fit_samples)

    def _diverged(self, losses: list[float], norm: float) -> Diverged:
        """Say where numbers stopped being finite: all ranks know the whole batch, so all say and raise the same."""
        step = self.state.step
        ids = [self.dataset.ids[place.row] for place in self.order.batch(step, self.settings.batch)]
        blamed = [one for one, loss in zip(ids, losses, strict=True) if not np.isfinite(loss)]
        what = "the loss" if blamed else f"the gradient norm ({norm})"
        self.journal.flush()
        self.events.write("diverged", step=step, sample_ids=blamed or ids)
        return Diverged(
            f"{what} is not finite at step {step}, samples {', '.join(blamed or ids)}: "
            f"lower train.learning_rate, or look at these samples; {self.store.path(self.saved)} is untouched"
        )
