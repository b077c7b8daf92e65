#!/usr/bin/env python3
"""Shows what works on this machine, and how to get what does not.

With --gpu, it also computes on the GPUs.
"""

from afad_tfdata import doctor
from afad_tfdata.bin import command

EXAMPLE = "afad-doctor"


def main(config: doctor.DoctorConfig, arguments: list[str]) -> command.Output:
    """Examines the machine; status 1 if something that is needed does not work."""
    del arguments
    findings = doctor.examine(config)
    broken = any(finding.works is False for finding in findings)
    return command.Output(
        doctor.summary_text(findings), [f._asdict() for f in findings], int(broken)
    )


def run() -> None:
    """Entry point of ``afad-doctor``."""
    command.run(main, doctor.DoctorConfig, about=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    run()
