"""One worker of a training over several: train_worker.py RECORDS RUN [WHAT STEP].

What `test_multi_worker.py` starts, with TF_CONFIG set.  The network has neither
dropout nor batch statistics, so that its weights do not depend on the number of
replicas.  If WHAT is a signal's name, the worker sends it to itself after STEP steps.
If it is ``stop`` or ``fail``, its callback stops the training or fails.
"""

from __future__ import annotations

import os
import signal
import sys

from afad_tfdata.common import errors, preemption
from afad_tfdata.storage import schema

STEPS = 20
BATCH = 24


def main() -> int:
    records, run_dir, *at = sys.argv[1:]
    preemption.install()
    from afad_tfdata import trainer
    from afad_tfdata.models import networks
    from afad_tfdata.training import epoch_loop

    class Called:
        def on_start(self, event):
            print("the callback began", flush=True)

        def on_steps(self, event):
            if at and event.step == int(at[1]):
                if at[0] == "stop":
                    raise trainer.StopTraining("enough")
                raise ZeroDivisionError

    if at and at[0].isupper():
        take_steps = epoch_loop.EpochLoop._take_steps

        def interrupted(loop, state, *arguments):
            result = take_steps(loop, state, *arguments)
            if state.step == int(at[1]):
                os.kill(os.getpid(), getattr(signal, at[0]))
            return result

        epoch_loop.EpochLoop._take_steps = interrupted
    mean = schema.load_manifest(records).mean_rgb
    built = networks.build_model

    def build(config, **more):
        return built(
            networks.ModelConfig(
                backbone="small_cnn_no_bn",
                weights="none",
                image_size=16,
                age_dropout=0.0,
                gender_dropout=0.0,
                mean=mean,
            ),
            **more,
        )

    networks.build_model = build  # No flag sets the dropout.
    config = trainer.TrainConfig(
        records_dir=records,
        run_dir=run_dir,
        backbone="small_cnn_no_bn",
        weights="none",
        recipe="original",
        stage="tuning",
        image_size=16,
        epochs=4,
        steps_per_epoch=STEPS // 4,
        global_batch_size=BATCH,
        optimizer="sgd",
        learning_rate=1e-4,
        clip_norm=100.0,
        class_weight="balanced",
        checkpoint_steps=2,
        steps_per_loop=1,
        devices="cpu",
        threads=1,
    )
    try:
        print(trainer.train(config, callbacks=[Called()]).text(), flush=True)
    except errors.AfadError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
