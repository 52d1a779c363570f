"""`chord VERB ...`, which is `python -m chord VERB ...`: runs one verb and loads no other."""

import difflib
import importlib  # not followed: the digest of a job begins at its verb
import sys
from importlib.metadata import version

from chord import VERBS
from chord.provenance.cli import run_verb


def main() -> int:
    """Run one verb; the list of them where none is named, exit code 2 where it is not known."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        print(f"chord {version('chord')}")
        return 0
    if name not in VERBS:
        typed = [verb for verb in VERBS if VERBS[verb].is_typed]
        near = difflib.get_close_matches(name.removeprefix("chord."), VERBS, n=1)
        wanted = f"{f'`{near[0]}` (nearest) or ' if near else ''}one of: {', '.join(typed)}"
        print(f"chord: found command '{name}', expected {wanted}", file=sys.stderr)
        return 2
    sys.argv = [f"chord {name}", *arguments]
    run_verb(f"chord {name}", lambda: importlib.import_module(VERBS[name].module).main())


def _usage() -> str:
    def listed(is_typed: bool) -> list[str]:
        return [f"  {name:12} {verb.summary}" for name, verb in VERBS.items() if verb.is_typed is is_typed]

    return "\n".join(
        [
            "usage: chord VERB ... | --version",
            "",
            *listed(True),
            "",
            "What rules of the workflow run:",
            *listed(False),
            "",
            "`chord VERB --help` says more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
