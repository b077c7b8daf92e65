"""What the replicas, the devices and the process of a step wait for."""

import pytest

from tests.training import step_graph, test_step

# What a step is set up with, and its all-reduces, gathers and host synchronisations.
STEPS = {
    "float32": ({"gather_labels": False}, (1, 0, 0)),
    "float32, average of the weights": (
        {"gather_labels": False, "optimizer": "adamw", "ema": 0.99},
        (1, 0, 0),
    ),
    "float32, compiled": ({"gather_labels": False, "jit": True}, (1, 0, 0)),
    "float32, clipping, 2 parts": (
        {"gather_labels": False, "clip_norm": 1.0, "accumulation": 2},
        (1, 0, 0),
    ),
    # Whether the step is skipped depends on its gradients.
    "mixed_float16": ({"gather_labels": False, "loss_scaling": True}, (1, 0, 1)),
    "mixed_float16, clipping": (
        {"gather_labels": False, "loss_scaling": True, "clip_norm": 1.0},
        (1, 0, 1),
    ),
    "float32, class weights": ({}, (1, 2, 0)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_no_more_than_it_must(replicas, name):
    options, wanted = STEPS[name]
    _, train_step = test_step.make_trainer(replicas, **options)
    count = replicas.num_replicas_in_sync
    found = step_graph.count(train_step, test_step.batches(replicas), count)
    assert found == wanted
