"""The training loop. Read ``train`` and ``Trainer.run`` first: the rest is what they call."""

import errno
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mvdiff.errors import Hopeless, InputError, counted, one_line
from mvdiff.events import EventLog
from mvdiff.model.build import create
from mvdiff.model.settings import ModelSettings
from mvdiff.shard import CorruptRow
from mvdiff.train import record
from mvdiff.train.archive import Archive
from mvdiff.train.board import Board
from mvdiff.train.checkpoint import CheckpointStore, Keep, step_of
from mvdiff.train.compilation import compile_training
from mvdiff.train.determinism import deterministic
from mvdiff.train.draw import Chance
from mvdiff.train.feed import Feed
from mvdiff.train.finetune import encoder
from mvdiff.train.fitness import refuse_misfit, refuse_unfit
from mvdiff.train.history import History
from mvdiff.train.journal import Journal
from mvdiff.train.order import Batches
from mvdiff.train.pace import MINUTE, Pace
from mvdiff.train.position import Position, read_history, write_scores
from mvdiff.train.readout import Readout
from mvdiff.train.schedule import learning_rate
from mvdiff.train.settings import TrainSettings
from mvdiff.train.sources import Sources
from mvdiff.train.state import TrainingState
from mvdiff.train.validation import Trial, Validation, publish_sheet
from mvdiff.train.weighting import loss_weights
from mvdiff.train.world import Group, World, joined

End = Literal["done", "stopped"]

_MAKE_ROOM = "make room, then start the run again: it goes on from its last good checkpoint"
_SPARE_SHARE = 1 / 6
"""Of a short time limit, at most this share is kept to spare."""


class Diverged(Hopeless):
    """The loss or its gradients are no longer finite; the last good checkpoint is as it was."""


@dataclass(frozen=True)
class Folders:
    """Where a run leaves what it makes."""

    checkpoints: Path
    validation: Path
    """Scores and contact sheets."""
    board: Path | None
    """TensorBoard's; None: it is not written."""


def train(
    settings: TrainSettings,
    model_settings: ModelSettings,
    sources: Sources,
    folders: Folders,
    events: EventLog,
    log: Callable[[str], None],
    world: World,
    should_stop: Callable[[], bool],
    time_left: Callable[[], float] = lambda: math.inf,
    on_boundary: Callable[[str], None] = lambda _name: None,
) -> End:
    """Train a model on ``sources`` until ``settings`` say that it is over, or until any rank ``should_stop``.

    Starts afresh in an empty folder ``folders.checkpoints``, otherwise goes on from the newest good checkpoint there.
    All ranks stop after the same step, with a checkpoint of it, and the call returns ``"stopped"``; called again with
    the same arguments, at whatever world size, the run goes on. A finished run returns ``"done"`` at once.

    ``time_left`` tells the seconds until this process is ended from outside: the run stops by itself when they are
    just enough to save. ``events`` belongs to this rank alone; ``log`` takes lines for people. Wrong input, a
    checkpoint folder of another run and a disk too full for the last checkpoint raise ``InputError``; ``Diverged`` ends
    a run whose numbers are no longer finite. ``on_boundary`` is called with a name between any two steps of a save that
    a kill could separate.
    """
    settings = settings.sized(len(sources.training))
    settings.share(world.world_size)
    refuse_misfit(model_settings, sources)
    refuse_unfit(settings, model_settings, sources)
    torch.set_num_threads(settings.threads)
    store = CheckpointStore(folders.checkpoints, log, on_boundary)
    try:
        with (
            deterministic(settings.deterministic),
            joined(world, settings.mixed_precision) as group,
            ExitStack() as until_the_end,
        ):
            group.decide(lambda: until_the_end.enter_context(store.held()))
            trainer = Trainer(settings, model_settings, sources, folders, store, events, log, group, time_left)
            return trainer.run(should_stop)
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
        sources: Sources,
        folders: Folders,
        store: CheckpointStore,
        events: EventLog,
        log: Callable[[str], None],
        group: Group,
        time_left: Callable[[], float],
    ) -> None:
        self.settings, self.model_settings, self.sources, self.folders = settings, model_settings, sources, folders
        self.store, self.events, self.log, self.group, self.time_left = store, events, log, group, time_left
        self.batches = Batches(sources, settings)
        self.pace = Pace()
        # rank 0 looks at the clock for all: the first look may ask the queue
        self.spare = min(MINUTE, _SPARE_SHARE * time_left()) if group.rank == 0 else 0.0
        self.archive: Archive | None = None
        """On rank 0."""
        self.loss: float | None = None
        """Mean loss of the last step's global batch; None before the first one of this start."""

    def run(self, should_stop: Callable[[], bool]) -> End:
        """Set up, then step until the end or a stop."""
        place = self.group.decide(self._open)
        self.position = Position(place["step"], History.read(place["history"]))
        if place["over"]:
            return "done"
        state = self.state = TrainingState.read(
            self.store.path(place["step"]), self.settings, self.model_settings, self.group.device
        )
        if self.settings.compile:
            self.log(f"compiled: {compile_training(state, self.settings, self.group, self.log)}")
        self.model = self.group.wrap(state.model)
        self.weights = loss_weights(state.model.signal, state.model.spread, self.settings.min_snr)
        self.frozen = [weight for weight in encoder(state.model).parameters() if weight.requires_grad]
        with ExitStack() as until_the_end:
            until_the_end.callback(self._unwrap)
            if self.group.rank == 0:
                self.log(self._how())
                self.archive = until_the_end.enter_context(self._archive(place["step"]))
            board = Board(self.folders.board if self.group.rank == 0 else None, self.log, place["step"] + 1)
            until_the_end.callback(board.close)
            samples = len(self.sources.training)
            self.journal = Journal(self.events, self.log, self.settings, samples, board, self.time_left)
            return self._go_on(until_the_end.enter_context(self._feed()), should_stop)

    def _go_on(self, feed: Feed, should_stop: Callable[[], bool]) -> End:
        """From step to step; whatever is decided here is decided by all ranks alike."""
        settings, position = self.settings, self.position
        validation = self._validation()

        def stopping() -> bool:
            late = self.group.rank == 0 and self.time_left() < self.pace.needed(self.spare)
            return should_stop() or late

        begun = position.step
        self.journal.start()
        while True:
            if self.group.any(stopping()):
                return self._stop()
            if self.archive:
                self.archive.look()
            best = False
            if validation is not None and position.validation_is_due(settings):
                try:
                    trial = validation.run(stopping)
                except FloatingPointError as error:
                    raise self._diverged("what the averaged model generates is", []) from error
                if trial is None:
                    return self._stop()
                best = self._tried(trial)
            if (reason := position.ended(settings)) is not None:
                self._secure()
                return self._end("done", reason)
            if begun != position.step and (best or position.step % settings.save_every == 0):
                begun = position.step
                self._save()
            self._step(feed)

    def _unwrap(self) -> None:
        """Let go of the wrapped model while the group still stands (``Group.unwrap``)."""
        del self.model
        self.group.unwrap()

    def _step(self, feed: Feed) -> None:
        """One optimizer step of the global batch; every rank learns every loss, and they stop together."""
        start = time.monotonic()
        accelerator, step = self.group.accelerator, self.state.step
        waited = feed.waited
        batches = feed.take(step)
        samples = sum(len(batch.sample_ids) for batch in batches)
        row = []
        for batch in batches:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(self.model):
                batch = batch.to(self.group.device)
                losses = self.model(batch) * self.weights[batch.timestep]  # [B]
                accelerator.backward(losses.sum() / samples)
            row.append(losses.detach())
        if step < self.settings.frozen_steps(len(self.sources.training)):
            for weight in self.frozen:
                weight.grad = None
        row.append(self.state.clip(self.settings.max_grad_norm)[None])
        readout = Readout(torch.cat(row).double())
        # until the numbers are known to be finite, position is a step behind and nothing may be saved
        self.state.advance()
        numbers = readout.numbers()  # [samples + 1]
        own, norm = numbers[:-1], float(numbers[-1])
        waited = feed.waited - waited
        gathered = self.group.gather(torch.cat([own, own.new_tensor([waited])]))  # [world size, samples + 1]
        losses, waits = gathered[:, :-1].flatten(), gathered[:, -1]  # [global batch], [world size]
        if not (losses.isfinite().all() and np.isfinite(norm)):
            ids = self.batches.ids(step)
            blamed = [one for one, loss in zip(ids, losses.tolist(), strict=True) if not np.isfinite(loss)]
            raise self._diverged("the loss is" if blamed else f"the gradient norm ({norm}) is", blamed or ids)
        self.loss = float(losses.mean())
        self.position.step = self.state.step
        seconds = time.monotonic() - start
        self.pace.stepped(seconds)
        if self.group.rank == 0:
            rate = learning_rate(step, self.settings)
            self.journal.step(step, self.loss, norm, rate, float(waits.max()), seconds)

    def _tried(self, trial: Trial) -> bool:
        """Take in what a validation has found; whether the model was never better."""
        step, history = self.position.step, self.position.history
        history.record(step, trial.scores)
        if self.group.rank == 0:
            self.journal.flush()
            line, remarks = history.line(self.settings.last_step), history.remarks()
            for told in (line, *remarks):
                self.log(told)
            self.events.write(
                "validated", step=step, scores=trial.scores, samples=trial.samples,
                seconds=round(trial.seconds, 3), line=line, remarks=remarks,
            )  # fmt: skip
            self.journal.board.validation(step, trial.scores, trial.sheet)
            try:
                write_scores(self.folders.validation, step, trial.scores)
                if trial.sheet is not None:
                    publish_sheet(trial.sheet, self.folders.validation, step)
            except OSError as error:
                self.log(f"what validation found could not be written to {self.folders.validation} ({error})")
        best = history.best()
        return best is not None and best.step == step

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

    def _open(self) -> dict[str, Any]:
        """Find the place to go on from, or make a new model and save it as step 0: every rank starts by loading."""
        settings = self.settings
        newest = self.store.newest_good()
        self.record = record.describe(settings, self.model_settings, self.sources, newest)
        if newest is None:
            self._begin()
            return {"step": 0, "history": [], "over": None}
        record.refuse_another(newest, self.record)
        step = step_of(newest)
        history = read_history(newest, self.folders.validation)
        self.store.tidy(step, Keep(settings.keep_last, settings.keep_every, settings.keep_best, history.ranking()))
        position = Position(step, history)
        over = None if self._validates and position.validation_is_due(settings) else position.ended(settings)
        if over:
            self.log(f"already done: {newest}, {over}")
        else:
            self.log(f"going on from {newest.name} of {counted(settings.last_step, 'step')}")
            self.events.write("resumed", step=step, checkpoint=newest.name, world_size=self.group.world_size)
        return {"step": step, "history": history.written(), "over": over}

    def _begin(self) -> None:
        """A new model, saved as step 0."""
        settings, samples = self.settings, len(self.sources.training)
        prior = self.sources.prior
        beside = ""
        if prior is not None:
            beside = f", {settings.prior_share:.0%} of each batch from {counted(len(prior), 'other')}"
        self.log(f"starting a new run of {counted(settings.last_step, 'step')} on {counted(samples, 'sample')}{beside}")
        for left in self.folders.validation.glob("step-*"):
            left.unlink()
        model = create(self.model_settings, self._fitting_views(), settings.seed)
        self.state = TrainingState(model, settings, torch.device("cpu"))
        self.events.write("started", world_size=self.group.world_size, **self.record["data"])
        self.position = Position(0, History())
        with self._archive(saved=None) as archive:
            if problem := archive.secure(loss=None):
                raise InputError(problem, _MAKE_ROOM)

    def _archive(self, saved: int | None) -> Archive:
        history = self.position.history
        return Archive(
            self.state, history, self.store, self.record, self.settings, self.events, self.log, self.pace, saved
        )

    def _refuse_ruins(self) -> None:
        """Weights that are no numbers must not take the place of good ones; all ranks have the same."""
        # looked at once: every look waits for the GPU
        if not torch.stack([weight.isfinite().all() for weight in self.state.trained.values()]).all():
            raise self._diverged("the weights are", [])

    def _save(self) -> None:
        """Begin to publish the state as it is; training goes on meanwhile."""
        self._refuse_ruins()
        if self.archive:
            self.journal.flush()
            self.archive.begin(self.loss)

    def _secure(self) -> None:
        """Publish the state as it is; failing to do so ends the run."""
        self._refuse_ruins()

        def secure() -> str | None:
            assert self.archive
            self.journal.flush()
            return self.archive.secure(self.loss)

        if problem := self.group.decide(secure):
            raise InputError(problem, _MAKE_ROOM)

    def _stop(self) -> End:
        self.events.write("stopping", step=self.state.step)
        self._secure()
        return self._end("stopped", "asked to stop")

    def _end(self, end: End, why: str) -> End:
        step = self.position.step
        self.events.write(end, step=step, why=why)
        if self.group.rank == 0:
            self.log(f"{end} at step {step} of {self.settings.steps} ({why}): {self.store.path(step)}")
        return end

    @property
    def _validates(self) -> bool:
        return self.settings.validation.every > 0 and self.sources.validation is not None

    def _validation(self) -> Validation | None:
        if not self._validates:
            return None
        assert self.sources.validation is not None
        return Validation(
            self.sources.validation, self.settings, self.state.ema.model, self.group, self._quarantine
        )  # fmt: skip

    def _feed(self) -> Feed:
        settings, model = self.settings, self.state.model
        chance = Chance.of(settings, model.num_train_timesteps, model.noise_shapes)
        return Feed(
            self.sources,
            self.batches,
            chance,
            settings,
            model.sight,
            self.model_settings.cameras,
            self.group.rank,
            self.group.world_size,
            self._quarantine,
            pin=self.group.device.type == "cuda",
        )

    def _quarantine(self, sample_id: str, why: str) -> None:
        self.log(one_line(f"sample {sample_id} is left out: {why}"))
        self.events.write("quarantined", sample_id=sample_id, why=why)

    def _fitting_views(self) -> Iterator[NDArray[np.uint8]]:
        """Views uint8 [6, H, W, 3] of the first ``fit_samples`` good samples of the order."""
        dataset = self.sources.training

        def good() -> Iterator[NDArray[np.uint8]]:
            for position in range(len(dataset)):
                with suppress(CorruptRow):
                    # a copy: torch warns of arrays that are read-only, as a shard's are
                    yield dataset[self.batches.training.place(position).row].views.copy()

        return islice(good(), self.settings.fit_samples)

    def _diverged(self, what: str, ids: list[str]) -> Diverged:
        """Say where numbers stopped being finite: all ranks know the whole batch, so all say and raise the same."""
        step = self.position.step
        self.journal.flush()
        self.events.write("diverged", step=step, sample_ids=ids)
        samples = f", samples {', '.join(ids)}" if ids else ""
        safe = self.archive.safe() if self.archive else None
        return Diverged(
            f"{what} not finite at step {step}{samples}: lower train.learning_rate in another run="
            f"{', or look at these samples' if ids else ''}{f'; {safe} is untouched' if safe else ''}"
        )
