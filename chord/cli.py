"""`chord COMMAND ...` is `python -m chord.COMMAND ...` for the commands that people type by hand; rules use the latter.

Knows their names and what each is for, and loads nothing of one that is not asked for.
"""

import difflib
import runpy  # not followed: the digest of a job begins at its verb
import sys
from pathlib import Path

COMMANDS = {
    "fetch": "bring what a study needs from a model hub, pinned to the byte by a lock file",
    "audit": "check a study, or one number of it, from the table down to the raw data",
    "plan": "say what a target would cost: jobs, hours, memory, disk",
    "watch": "show a running study: jobs done and left, the curve of each training, time left",
    "why": "say for each job of a target why it would run",
    "doctor": "check that a profile fits the Slurm cluster that it is for",
    "resume": "go on after Snakemake was killed: end what it left, keep what is finished",
    "diff": "the first thing in which two runs differ",
    "export": "write the provenance of a study as an RO-Crate",
}


def main() -> int:
    """Run one command; the list of them where none is named, exit code 2 where it is not known."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("\n".join(["usage: chord COMMAND ...", "", *(f"  {name:8} {COMMANDS[name]}" for name in COMMANDS)]))
        print("\n`chord COMMAND --help` says more.")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        wanted = f"{f'`{near[0]}` (nearest) or ' if near else ''}one of: {', '.join(COMMANDS)}"
        verbs = [file.stem for file in Path(__file__).parent.glob("[!_]*.py") if file.stem not in (*COMMANDS, "cli")]
        verb = difflib.get_close_matches(name, verbs, n=1, cutoff=0.8)
        hint = f"; `python -m chord.{verb[0]}` is what rules run" if verb else ""
        print(f"chord: found command '{name}', expected {wanted}{hint}", file=sys.stderr)
        return 2
    sys.argv = [f"chord {name}", *arguments]
    runpy.run_module(f"chord.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
