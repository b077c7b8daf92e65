"""The objects that a caller passes to `trainer.train`, and what they decide.

`training_parts` builds the parts for which the caller passes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.models import backbones, facts, trainable_layers
from afad_tfdata.storage import schema
from afad_tfdata.training import config as train_config
from afad_tfdata.training import idle_flags, process_settings
from afad_tfdata.training.caller import example_parser, fingerprints
from afad_tfdata.training.caller import model as caller_model


@dataclasses.dataclass(frozen=True)
class CallerObjects:
    """Parts that a caller passes; for None, the part is built from the config.

    All are described at `trainer.train`.

    Attributes:
      model: Model.
      train_dataset: Training data.
      validation_dataset: Validation data.
      augment: Augmentation.
      loss: Loss.
    """

    model: keras.Model | None = None
    train_dataset: Any = None
    validation_dataset: Any = None
    augment: Callable[..., Any] | None = None
    loss: Callable[..., Any] | None = None

    def described(self, model: str, data: Mapping[str, str]) -> dict[str, str]:
        """What ``config.json`` records of each part; empty if it is not a caller's.

        Args:
          model: The fingerprint of the model.
          data: What identifies the data sets, from `TrainData.described`.
        """
        passed = fingerprints.functions_in(self.model) if self.model is not None else []
        augment, loss = (
            fingerprints.of_functions([] if part is None else [part])
            for part in (self.augment, self.loss)
        )
        return {
            "model": model,
            "functions": fingerprints.of_functions(passed),
            **data,
            "augment": augment,
            "loss": loss,
        }

    def decides(self) -> dict[str, Any]:
        """What the caller's parts decide, for `automatic_options.resolve`."""
        head = facts.network_of(self.model).get("age_head", "regression")
        return {
            "own_age_head": None if self.model is None else head,
            "own_augment": self.augment is not None,
            "own_loss": self.loss is not None,
        }

    def builds_data(self) -> bool:
        """Whether the data sets are built from the config."""
        return self.train_dataset is None and self.validation_dataset is None

    def refuse_unusable(self, config: train_config.TrainConfig) -> dict[str, Any]:
        """Refuses a model of another library, and options without an effect on it.

        Returns:
          The `networks.ModelConfig` of the caller's model, as plain values; empty if
          the model is not one of ours.
        """
        known: dict[str, Any] = {}
        if self.model is not None:
            caller_model.check_kind(self.model)
            known = facts.network_of(self.model)
        idle_flags.refuse_beside_objects(
            config,
            model=self.model is not None,
            known=known,
            train_dataset=self.train_dataset is not None,
            augment=self.augment is not None,
            loss=self.loss is not None,
        )
        head = config.model.age_head
        if known and head not in ("auto", known["age_head"]):
            raise errors.UsageError(
                f"--age_head={head} has no effect, because the model that was passed to"
                f" train has the age head {known['age_head']}: leave it out"
            )
        return known

    def precision(self, config: train_config.TrainConfig) -> str:
        """Name of the network's dtype policy: that of the caller's model, if any."""
        if self.model is None:
            return process_settings.resolve_precision(config.precision)
        found = caller_model.precision(self.model)
        if config.precision not in ("auto", found):
            raise errors.UsageError(
                f"--precision={config.precision} has no effect, because the model that"
                f" was passed to train is {found}: leave it out, or build the model"
                " under another dtype policy"
            )
        return found

    def wanted_examples(
        self,
        config: train_config.TrainConfig,
        ages: tuple[int, int],
        age_head: str,
    ) -> example_parser.WantedExamples:
        """What the examples of a caller's data set must be."""
        size = config.input.image_size or None
        sides: tuple[int | None, int | None] = (size, size)
        if self.model is not None:
            sides = caller_model.input_sides(self.model)
        return example_parser.WantedExamples(
            task=config.input.task,
            batch_size=config.input.global_batch_size,
            sides=sides,
            # A regression learns any age; other heads would take their nearest age.
            ages=ages if age_head != "regression" and self.loss is None else None,
            all_labels=self.loss is not None,
            seed=config.input.seed,
        )

    def image_sides(
        self,
        config: train_config.TrainConfig,
        manifest: schema.Manifest | None,
        batch: example_parser.FirstBatch | None,
    ) -> tuple[int, int]:
        """Height and width of the network's input: of the caller's or of records."""
        size = config.input.image_size or (manifest.image_size if manifest else 150)
        high: int | None = None
        wide: int | None = None
        if self.model is not None:
            high, wide = caller_model.input_sides(self.model)
        taken = (high, wide) if batch is None else batch.images.shape[1:3]
        asked = config.input.image_size
        if asked and any(side not in (asked, None) for side in taken):
            what = "model" if batch is None or high else "data set"
            raise errors.UsageError(
                f"--image_size={asked} has no effect, because the {what} that was"
                f" passed to train has images of {taken[0]} x {taken[1]} pixels: leave"
                " it out"
            )
        if batch is not None:
            high, wide = batch.images.shape[1:3]
        sides = (high or size, wide or size)
        reads_records = self.train_dataset is None or manifest is not None
        if sides[0] != sides[1] and (self.model is None or reads_records):
            raise errors.UsageError(
                f"images of {sides[0]} x {sides[1]} pixels are wanted, and records and"
                " our networks have square ones: resize them, or pass a model that"
                " takes them and leave --records_dir out"
            )
        return sides

    def frozen_layers(
        self, config: train_config.TrainConfig, model: keras.Model
    ) -> tuple[keras.layers.Layer, ...]:
        """Layers of one of our models that the caller froze, and that stay frozen.

        Args:
          config: The options.
          model: The caller's model, or a copy of it on other devices.

        Raises:
          UsageError: A stage would train layers of the backbone that the caller froze,
            and no flag decides between the two.
        """
        if self.model is None or not facts.network_of(model):
            return ()  # The flags of a foreign model are not changed.
        backbone = backbones.backbone_of(model)
        inside = (
            {id(layer) for layer in backbone._flatten_layers()} if backbone else set()
        )
        frozen = caller_model.frozen_layers(model)
        heads = tuple(layer for layer in frozen if id(layer) not in inside)
        below = [layer for layer in frozen if id(layer) in inside]
        if not below or config.trainable_layers is not None:
            return heads
        stages = ("warmup", "tuning") if config.stage == "recipe" else (config.stage,)
        with caller_model.trainable_flags_restored(model):
            for stage in stages:
                trainable_layers.set_trainable(model, stage)
                trained = [layer.name for layer in below if layer.trainable]
                if trained:
                    raise errors.UsageError(
                        f"{len(trained)} layers of the model's backbone are frozen"
                        f" (such as {trained[-1]}), and --stage={stage} trains them:"
                        " set trainable=True on them, or give --trainable_layers=0 to"
                        " train the heads only"
                    )
        return heads
