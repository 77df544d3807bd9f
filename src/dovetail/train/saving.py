"""What the Trainer saves and goes on from: whole checkpoints of dovetail's, each in one rename.

A save is the checkpoint as it would be converted, and beside the weights the state of the run: optimizer,
schedule, random numbers, position in the data. Whatever ends a run, the last save that is there is whole, and
going on from it gives, on one process, the very losses that the run would have had.
"""

import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.trainer_utils import TrainOutput

from dovetail.errors import CheckpointError
from dovetail.inputs.values import Values
from dovetail.loading.load import load
from dovetail.loading.save import planned, save
from dovetail.store.write.publish import publishing
from dovetail.train import record, run_folder
from dovetail.train.adapter import Names, read_adapter, write_adapter
from dovetail.train.family_file import family_file
from dovetail.train.lora import Lora, factors, merged
from dovetail.train.module import TrainingModule

STATE, OPTIMIZER, SCHEDULER = "trainer_state.json", "optimizer.pt", "scheduler.pt"
# What a save says of its run, to whoever writes a file of a family beside it.
SideFiles = Callable[[Mapping[str, Any]], Mapping[str, bytes]]


class SavingTrainer(transformers.Trainer):
    """The Trainer with saves of ours. Who inherits from it sets what a save needs, before anything else.

    `like` is the checkpoint whose layout and side files the result gets, `reader` the program that is to open
    it; `known` is what decides the losses beside the arguments (data, labels, what is trained); `side_files`
    are told the record of each save, with `step`, `epoch` and the last `metrics`, and give texts by name.
    With a `lora`, saves are adapters for `like`; `merges` writes the whole model as well at the end.
    """

    like: str | os.PathLike[str]
    reader: str | None
    lora: Lora | None
    merges: bool
    known: Mapping[str, Any]
    side_files: Sequence[SideFiles]

    @property
    @abstractmethod
    def module(self) -> TrainingModule:
        """The module, without what accelerate put around it."""

    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's own. accelerate 1.15 shards no model over processes on CPUs, it runs them as DDP and
        does not say so (`AcceleratorState`); torch does."""
        super().create_accelerator_and_postprocess()
        if not self.args.fsdp or self.is_fsdp_enabled or self.args.world_size < 2:
            return
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        state = self.accelerator.state
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
        self.is_fsdp_enabled = True

    @property
    def folder(self) -> str:
        """The folder of the run."""
        return str(self.args.output_dir)

    @property
    def record(self) -> record.Record:
        """What the run is."""
        names = [name for name, one in self.module.model.named_parameters() if one.requires_grad]
        trained = list(dict.fromkeys(name.partition(".")[0] for name in names))
        known = {"trained": trained, **self.known}
        return record.record_of(self.args, model=os.fspath(self.like), known=known)

    def train(self, resume_from_checkpoint: str | bool | None = None, **more: Any) -> TrainOutput:  # type: ignore[override]
        """Trains, from the beginning or from a save; `True` is the newest one, if there is one yet.

        A run that is finished is left as it is.

        Raises:
            UsageError: the folder has another run in it, or the save is of a run with other data or settings.
            CheckpointError: the save has no state to go on with.
            WriteError: a save could not be written.
        """
        with self._alone():
            place = run_folder.chosen_save(self.folder, resume_from_checkpoint)
            if place is None:
                self._check_saves()
                self._finished = super().train(**more)
            else:
                state = self._state_of(place)
                self._put(place)
                if state["global_step"] >= state["max_steps"]:
                    self._finished = self._already(place)
                else:
                    self._finished = super().train(resume_from_checkpoint=place, **more)
            self._end()
        return self._finished

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The folder is this run's; what a killed one left is gone before any process looks."""
        is_first = self.args.process_index == 0
        with run_folder.held(self.folder) if is_first else nullcontext():
            self.accelerator.wait_for_everyone()
            yield

    def _check_saves(self) -> None:
        """Refuses, before the first step, a model that could not be saved."""
        model, weights = self.module.model, None
        if self.lora is not None:
            names, state = Names(self.like, like=model), model.state_dict()
            for layer in factors(state):
                names.module(layer)
            weights = merged(state, self.lora)
        with planned(model, like=self.like, for_=self.reader, weights=weights, stamp=self._stamp()):
            pass

    def _state_of(self, place: str) -> dict[str, Any]:
        """The state of the Trainer in a save, if the run can go on from it."""
        record.check_same(self.record, record.read_record(place), place)
        with open(os.path.join(place, STATE), encoding="utf-8") as file:
            state: dict[str, Any] = json.load(file)
        names = os.listdir(place)
        if not {OPTIMIZER, SCHEDULER} <= set(names):
            raise CheckpointError(
                f"`{place}` has no state of an optimizer to go on with",
                hint="it was saved with --save_only_model; begin a new run with it as --model",
            )
        return state

    def _already(self, place: str) -> TrainOutput:
        """What a run gives that was finished before."""
        self.state = transformers.TrainerState.load_from_json(os.path.join(place, STATE))
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else 0.0, {})

    def _end(self) -> None:
        """The last save, where the arguments asked for none at the end, and the links."""
        if self.args.save_strategy == "no":
            self._save_checkpoint(self.model, None)
        if self.merges and self.lora is not None:
            place = os.path.join(self.folder, run_folder.MERGED)
            weights = self._gathered() or self.module.model.state_dict()
            if self.args.should_save and not os.path.exists(place):
                self._save_whole(place, merged(weights, self.lora), self.record)
        if self.args.should_save:
            there = list(run_folder.saves(self.folder).values())
            run_folder.link(self.folder, "last", there[-1] if there else None)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """One save: the state is gathered first, then all of it appears in one rename."""
        step = self.state.global_step
        place, state = run_folder.save_of(self.folder, step), f"{run_folder.save_of(self.folder, step)}.state"
        if os.path.isdir(place):  # the end of an epoch at the step of a save
            return
        self.accelerator.wait_for_everyone()
        self.store_flos()
        if self.args.should_save:
            os.mkdir(state)
        self.accelerator.wait_for_everyone()
        if not self.args.save_only_model and self.args.save_strategy != "no":
            self._save_optimizer_and_scheduler(state)
            self._save_scaler(state)
            self._save_rng_state(state)
        weights = self._gathered()
        self.accelerator.wait_for_everyone()
        if self.state.best_global_step in {step, *run_folder.saves(self.folder)}:
            self.state.best_model_checkpoint = run_folder.save_of(self.folder, self.state.best_global_step)
        if self.args.should_save:
            self._note_callbacks()
            self.state.save_to_json(os.path.join(state, STATE))
            self._publish(place, state, weights)
            best = self.state.best_model_checkpoint
            run_folder.rotate(self.folder, most=self.args.save_total_limit, best=best)
            run_folder.link(self.folder, "last", place)
            run_folder.link(self.folder, "best", best)
        self.accelerator.wait_for_everyone()

    def _publish(self, place: str, state: str, weights: Mapping[str, Tensor] | None) -> None:
        """Writes the model as a checkpoint with the state in it."""
        said = {**self.record, "step": self.state.global_step, "epoch": self.state.epoch}
        metrics = [one for one in self.state.log_history if any(name.startswith("eval_") for name in one)]
        said["metrics"] = metrics[-1] if metrics else {}

        def beside(folder: str) -> None:
            for name in os.listdir(state):
                os.rename(os.path.join(state, name), os.path.join(folder, name))
            texts = {record.NAME: record.as_text(said).encode()}
            if self.lora is None:
                texts |= family_file(folder, like=self.like, said=said)
            for side_files in self.side_files:
                texts |= side_files(said)
            for name, text in texts.items():
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(text)

        if self.lora is None:
            self._save_whole(place, weights, said, beside)
        else:
            model = self.module.model
            names = Names(self.like, like=model)
            with publishing(place) as folder:
                values = weights or model.state_dict()
                write_adapter(folder, model, values, self.lora, names=names, base=self.like)
                beside(folder)
        shutil.rmtree(state)

    def _save_whole(
        self,
        place: str,
        weights: Mapping[str, Tensor] | None,
        said: Mapping[str, Any],
        beside: Callable[[str], None] | None = None,
    ) -> None:
        """Writes the model as a checkpoint."""
        save(
            self.module.model,
            place,
            like=self.like,
            for_=self.reader,
            weights=weights,
            stamp=self._stamp(),
            facts={"training": said},
            beside=beside,
        )

    def _stamp(self) -> dict[str, Any]:
        """The values that nothing but a default said: the model is trained with them now."""
        values = values_in(self.module).values
        return {
            name: one.value
            for name, one in values.items()
            if one.source == "default" and one.value is not None
        }

    def _note_callbacks(self) -> None:
        """Puts the state of the callbacks that have one into the state of the Trainer, as it does itself."""
        from transformers.trainer_callback import ExportableState

        for one in [*self.callback_handler.callbacks, self.control]:
            if isinstance(one, ExportableState):
                noted: Any = self.state.stateful_callbacks
                noted[type(one).__name__] = one.state()

    def _gathered(self) -> Mapping[str, Tensor] | None:
        """All weights by the names of the model, where they are spread over processes; else None."""
        if not self.is_fsdp_enabled:
            return None
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        spread: Any = self.model
        whole: Any = get_model_state_dict(
            spread, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        return {name.removeprefix("model."): one for name, one in whole.items()}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The Trainer's own; of FSDP without a second copy of the weights."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        optimizer: Any = self.optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole = get_optimizer_state_dict(self.model_wrapped, optimizer.optimizer, options=options)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(whole, os.path.join(output_dir, OPTIMIZER))
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The Trainer's own; of FSDP each process takes its share of the whole."""
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        optimizer: Any = self.optimizer
        whole = torch.load(os.path.join(checkpoint, OPTIMIZER), map_location="cpu", weights_only=True)
        # not strict: what has had no gradient yet (a tower, before the first image) has no state to be saved
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_optimizer_state_dict(self.model_wrapped, optimizer.optimizer, whole, options=options)
        schedule: Any = self.lr_scheduler
        schedule.load_state_dict(torch.load(os.path.join(checkpoint, SCHEDULER), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the weights are in the model before anything is put around it."""

    def _load_best_model(self) -> None:
        """Puts the weights of the best save into the model."""
        best = self.state.best_model_checkpoint
        assert best is not None
        if not self.is_fsdp_enabled:
            self._put(best)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        whole = {f"model.{name}": one for name, one in load(best).state_dict().items()}
        spread: Any = self.model
        set_model_state_dict(spread, whole, options=StateDictOptions(full_state_dict=True))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model alone as a checkpoint in a folder that is not there yet."""
        weights = self._gathered() or self.module.model.state_dict(keep_vars=True)
        if self.args.should_save and output_dir is not None:
            whole = weights if self.lora is None else merged(weights, self.lora)
            self._save_whole(output_dir, whole, self.record)
        self.accelerator.wait_for_everyone()

    def _put(self, place: str) -> None:
        """Puts the weights of a save into the model, where its parameters are.

        Raises:
            CheckpointError: it is of another model.
        """
        model = self.module.model
        if self.lora is None:
            _put(self.module, place)
        else:
            read_adapter(place, model, self.lora, names=Names(self.like, like=model))


def values_in(module: TrainingModule) -> Values:
    """What is known of the model in a module: its family and every value that it was built with."""
    values: Values = vars(module.model)["values"]
    return values


def _put(module: TrainingModule, place: str) -> None:
    """Puts the weights of a save into the model, where its parameters are.

    Raises:
        CheckpointError: it is of another model.
    """
    saved = load(place, as_=values_in(module).family.id).state_dict()
    mine = module.model.state_dict(keep_vars=True)
    other = [
        name
        for name in {**mine, **saved}
        if name not in saved
        or name not in mine
        or saved[name].shape != mine[name].shape
        or saved[name].dtype != mine[name].dtype
    ]
    if other:
        raise CheckpointError(
            f"`{place}` holds another model: `{other[0]}` is not the same",
            differing=str(len(other)),
            hint="go on with what was trained then: the same --model and --dtype",
        )
    with torch.no_grad():
        for name, one in mine.items():
            one.copy_(saved[name])
