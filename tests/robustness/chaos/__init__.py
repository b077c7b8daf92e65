"""Commands under faults: kills, full disks, damaged files, two at once, and more.

    python -m tests.robustness.chaos [--faults=200] [--seed=1] [--minutes=60]
        [--markdown=FILE]

Trial n of a seed is the same fault every time, except for the exact instant, which
depends on the machine.  A trial runs a command under the fault.  Three ends are right:
as undisturbed; an exit status of 1, 2 or 75 with one clear line; killed by the signal
that was sent.  Nothing may be silently wrong.  Then the fault is mended and the same
command runs again: it must end with the bytes, weights and numbers of an undisturbed
run.

==============  ==================================================================
`commands`      the commands, and what of their output is compared
`faults`        faults as such: installed in a process, or done to a file
`fault_kinds`   which fault hits which command in which trial
`trials`        a directory with the inputs, the two runs, and how they are judged
==============  ==================================================================
"""
