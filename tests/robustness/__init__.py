"""Whether the package keeps its promises when machines, disks and inputs fail.

Programs, which run for minutes to hours and are no part of ``make test``; each prints
a summary and ends with status 1 if something was wrong:

``python -m tests.robustness.chaos``
    Runs the commands under kills, full disks, damaged files and other faults, and
    compares the results with those of undisturbed runs (``make chaos``).
``python -m tests.robustness.kill_trials RECORDS_DIR WORK_DIR``
    Kills trainings at random moments, continues them, and compares weights and
    histories with those of an undisturbed run (part of ``make test-slow``).
``python -m tests.robustness.fuzz``
    Passes arbitrary bytes to everything that reads files or flags (``make fuzz``).
``python -m tests.robustness.mutate``
    Changes the package in one place at a time and counts how many of the changes the
    tests notice (``make mutate``).
``python -m tests.robustness.tf1_runtime DIR``
    Downloads TensorFlow 1.15 for the tests marked ``tf1`` (``make test-tf1``).
``python -m tests.robustness.dump_tf1_ops DIR``
    Writes the table of operations that TensorFlow 1.15 supports.

Tests: `test_hostile` (files that were made to do harm), `test_fuzz` (a few hundred
inputs for each target of fuzz) and `test_soak` (memory, files and threads over hours).
"""

import os

# Before any program here imports TensorFlow.  The programs fork, and a CUDA context
# does not survive a fork.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
