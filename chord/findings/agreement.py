"""Whether a table says the same as one of another machine, and the primary verdicts beside the two.

Two machines that differ in last bits sample other tokens, so equal seeds do not give equal results there: they are two
samples of replications. A cell agrees unless Welch's test of its values by seed tells the two means apart, at 5 % for
all cells of the table together (Bonferroni).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chord.findings.rendering import read_claims, read_table, value
from chord.findings.statistics import LEVEL
from chord.provenance.manifest import read_manifest


class Pair(NamedTuple):
    """The same cell in two tables; `p` is of Welch's test, None with one seed."""

    name: str
    here: Mapping[str, Any]
    there: Mapping[str, Any]
    p: float | None


def pairs(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Pair]:
    """The cells that both tables have: same arm, same benchmark in the same version."""
    columns = {(one["benchmark"], one["version"]) for one in there["columns"]}
    shared = [one for one in here["columns"] if (one["benchmark"], one["version"]) in columns]
    known = {row["arm"]: row["cells"] for row in there["rows"]}
    found: list[Pair] = []
    for row in here["rows"]:
        for column in shared if row["arm"] in known else ():
            both = row["cells"][column["benchmark"]], known[row["arm"]][column["benchmark"]]
            found.append(Pair(f"{row['label']}, {column['label']}", *both, _welch(*both)))
    return found


def _welch(here: Mapping[str, Any], there: Mapping[str, Any]) -> float | None:
    """p of equal means; equal values are no evidence against that, though they have no variance."""
    from scipy import stats

    ours, theirs = here["by_seed"], there["by_seed"]
    if ours == theirs:
        return 1.0
    if min(len(ours), len(theirs)) < 2:
        return None
    if len({*ours}) == len({*theirs}) == 1:  # no variance, and other values
        return 0.0
    welch: Any = stats.ttest_ind(ours, theirs, equal_var=False)
    return float(welch.pvalue)


def told(here: Path, there: Path) -> Iterator[str]:
    """Lines: which run `there` is, whether the tables agree or which cells do not, and the same of primary verdicts."""
    cells = pairs(read_table(here), read_table(there))
    yield f"Beside {there}, {_run(there)}; this is {_run(here)}:"
    known = [one for one in cells if one.p is not None]
    apart = [one for one in known if one.p is not None and one.p * len(known) < LEVEL]
    if not known:
        yield f"  nothing to compare: {len(cells)} cells in both, none of them with two seeds"
    elif apart:
        yield f"  {len(apart)} of {len(known)} cells do not agree, at {100 * LEVEL:g} % for all of them together:"
        yield from (f"  {one.name}: {value(one.here)} here, {value(one.there)} there, p = {one.p:.2g}" for one in apart)
    else:
        same = sum(one.here["by_seed"] == one.there["by_seed"] for one in known)
        equal = f", {same} of them to the last digit" if same else ""
        yield f"  agrees: all {len(known)} cells are within the error bars of both{equal}"
    yield from _of_verdicts(here.with_name("claims.json"), there.with_name("claims.json"))


def _of_verdicts(here: Path, there: Path) -> Iterator[str]:
    if not (here.exists() and there.exists()):
        return
    ours, theirs = ({one["id"]: one for one in read_claims(file)["claims"] if one["primary"]} for file in (here, there))
    both = ours.keys() & theirs.keys()
    others = [name for name in ours if name in both and ours[name]["verdict"] != theirs[name]["verdict"]]
    if others:
        words = (f"{name} {ours[name]['verdict']} here, {theirs[name]['verdict']} there" for name in others)
        yield f"  {len(others)} of {len(both)} primary verdicts differ: {'; '.join(words)}"
    elif both:
        yield f"  the verdicts on the {len(both)} primary claims are the same"


def _run(table: Path) -> str:
    """Commit, day, processor and cores of the run that made a table, as far as its manifest is there."""
    file = table.with_name(f"{table.stem}.manifest.json")
    if not file.exists():
        return "a run without a manifest"
    made = read_manifest(file)
    commit = f"commit {made.git.commit[:7]}" if made.git.commit else "no commit"
    return f"{commit} of {made.ended[:10]} on {made.machine.get('cpu')}, {made.machine.get('cores')} cores"
