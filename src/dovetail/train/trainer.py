"""The Trainer of transformers on a model of dovetail's: what it counts, evaluates and saves.

Everything else - steps, schedules, accumulation, several processes - is the Trainer's own and accelerate's.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dovetail.errors import UsageError
from dovetail.train.arguments import check_arguments
from dovetail.train.batches import InTensors
from dovetail.train.grouped_loader import Grouping, grouped_loader
from dovetail.train.lora import Lora
from dovetail.train.module import TrainingModule, num_items
from dovetail.train.saving import SavingTrainer, SideFiles
from dovetail.train.throughput import Count

# Parameters that are no matrices of products: 1-d ones, and what Mamba says of its own.
# Source: state-spaces/mamba `mamba_simple.py`: `self.A_log._no_weight_decay = True`.
_NO_DECAY = ("A_log",)


class Trainer(SavingTrainer):
    """Trains a model. Every save is a checkpoint as `like`, the one that the model came from, or as `reader`
    opens it; `known`, `side_files`, `lora` and `merges` are those of `SavingTrainer`.

    `collate` makes a batch of samples as arrays, `{"inputs": {name: array}, "targets": array}`; `rates` are
    learning rates of single parts, by role, in place of the one for all. `grouping` makes the batches of an
    epoch, which are random ones of a fixed size otherwise. `count` has what went into the steps.
    """

    def __init__(
        self,
        module: TrainingModule,
        args: transformers.TrainingArguments,
        *,
        data: Dataset[Any] | Sequence[Any],
        collate: Callable[[list[Any]], Mapping[str, Any]],
        like: str | os.PathLike[str],
        reader: str | None = None,
        known: Mapping[str, Any] | None = None,
        side_files: Sequence[SideFiles] = (),
        lora: Lora | None = None,
        merges: bool = False,
        val_data: Dataset[Any] | Sequence[Any] | None = None,
        rates: Mapping[str, float] | None = None,
        grouping: Grouping | None = None,
        callbacks: Sequence[transformers.TrainerCallback] = (),
    ) -> None:
        check_arguments(args)
        self.like, self.reader, self.side_files = like, reader, tuple(side_files)
        self.grouping, self.count = grouping, Count()
        self.rates = dict(rates or {})
        self.lora, self.merges = lora, merges
        of_lora = {} if lora is None else {"lora": asdict(lora)}
        self.known = {"rates": self.rates, **of_lora, **(known or {})}
        self._module = module
        super().__init__(
            model=module,
            args=args,
            data_collator=InTensors(collate),
            train_dataset=data,
            eval_dataset=val_data,
            callbacks=list(callbacks),
        )

    @property
    def module(self) -> TrainingModule:
        """The module, without what accelerate put around it."""
        return self._module

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """How many targets count in all the batches of one step, on all processes."""
        if not batch_samples:
            return None
        self.count.add(batch_samples)
        count = torch.tensor(sum(map(num_items, batch_samples)), device=device)
        if self.args.world_size > 1:
            count = self.accelerator.gather(count[None]).sum()
        return count.clamp(min=1)

    def training_step(self, model: nn.Module, *inputs: Any, **more: Any) -> Tensor:
        """One batch forward and back. Noise is drawn from the seed, the step and the number of a sample, so
        that neither a resume nor the number of processes changes it."""
        self.module.seed, self.module.step = self.args.seed, self.state.global_step + 1
        return super().training_step(model, *inputs, **more)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of groups where a grouping says them, else the Trainer's own."""
        if self.grouping is None:
            return super().get_train_dataloader()
        workers = self.args.dataloader_num_workers
        return grouped_loader(
            self.train_dataset,  # type: ignore[arg-type]
            self.grouping,
            process=self.args.process_index,
            processes=self.args.world_size,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The matrices: norms, biases and single vectors do not decay."""
        return [
            name
            for name, one in model.named_parameters()
            if one.ndim > 1 and name.rpartition(".")[2] not in _NO_DECAY
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name, with a group for each learning rate.

        Raises:
            UsageError: it cannot have groups.
        """
        if self.optimizer is not None or not self.rates:
            return super().create_optimizer(model)
        trained: Any = self.model if model is None else model
        make, settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
        if not isinstance(make, type) or {"params", "model", "optimizer_dict"} & settings.keys():
            raise UsageError(
                f"the optimizer `{self.args.optim}` takes one learning rate for all parts",
                hint="leave --part-lr out, or choose --optim adamw_torch",
            )
        self.optimizer = make(self._groups(trained), **settings)
        return self.optimizer

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The trained parameters by learning rate and decay."""
        decaying = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, one in model.named_parameters():
            if one.requires_grad:
                rate = self.rates.get(part_of(name), self.args.learning_rate)
                groups.setdefault((rate, name in decaying), []).append(one)
        return [
            {"params": of, "lr": rate, "weight_decay": self.args.weight_decay if decays else 0.0}
            for (rate, decays), of in groups.items()
        ]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss over all targets of the validation data, and of language models the share of tokens and of
        whole answers that the model finds most likely after the true ones before (teacher forcing)."""
        sums: dict[str, float] = {}
        model = self._wrap_model(self.model, training=False)  # type: ignore[arg-type]
        was_training = model.training
        model.eval()
        for batch in self.get_eval_dataloader(eval_dataset):
            given = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                found = model(**given, is_scored=True)
            for name, one in found.items():
                total = self.accelerator.reduce(one.double(), reduction="sum")
                sums[name] = sums.get(name, 0.0) + float(total)
        model.train(was_training)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measures(sums).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def measures(sums: Mapping[str, float]) -> dict[str, float]:
    """What sums of `TrainingModule.scores` mean.

    >>> measures({"loss": 6.0, "items": 4, "right": 3, "rows": 2, "exact": 1})
    {'loss': 1.5, 'token_accuracy': 0.75, 'exact_answers': 0.5}
    """
    found = {"loss": sums["loss"] / sums["items"] if sums.get("items") else math.nan}
    if "right" in sums:
        found["token_accuracy"] = sums["right"] / max(sums["items"], 1)
        found["exact_answers"] = sums["exact"] / max(sums["rows"], 1)
    return found


def part_of(name: str) -> str:
    """The role of the part that a parameter of the module is of.

    >>> part_of("model.text.blocks.0.norm1.weight")
    'text'
    """
    return name.removeprefix("module.").removeprefix("model.").partition(".")[0]
