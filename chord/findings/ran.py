"""What was run, where and for how long, for the page: training runs, and the time of every kind of job."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from chord.findings import history, page
from chord.findings.history import Training
from chord.provenance.manifest import Manifest

PACKAGES = ("chord", "torch", "transformers", "vllm", "deepspeed", "tokenizers", "lm-eval", "lm_eval", "datasets",
            "reasoning-gym", "numpy")  # fmt: skip


def kinds_of_jobs(manifests: Sequence[Manifest]) -> Iterator[str]:
    """A table of the time that each verb took, by the manifests of its jobs."""
    verbs = sorted({one.verb for one in manifests}, key=[one.verb for one in manifests].index)
    groups = {verb: [one for one in manifests if one.verb == verb] for verb in verbs}
    rows = [_kind(verb, group) for verb, group in groups.items()]
    if len(rows) > 1:
        rows.append(_kind("all", manifests))
    yield page.rows_part(("step", "jobs", "wall time", "core time", "GPU time", "where"), rows)
    yield (
        '<p class="soft">Of the jobs behind what is shown, by the manifest of each: its last, successful attempt.'
        " Core time is wall time × threads × processes, GPU time is wall time × GPUs; both are what was reserved, not"
        " what was busy. Attempts that failed or were stopped are in <code>provenance/ledger.jsonl</code>.</p>"
    )


def _kind(verb: str, manifests: Sequence[Manifest]) -> tuple[str, ...]:
    wall = sum(one.seconds for one in manifests)
    cores = sum(one.seconds * _threads(one) * _processes(one) for one in manifests)
    gpus = sum(one.seconds * _processes(one) for one in manifests if _is_gpu(one))
    where = history.shared(map(history.device, manifests))
    gpu_time = history.duration(gpus) if gpus else "none"
    return (verb, str(len(manifests)), history.duration(wall), history.duration(cores), gpu_time, where)


def _threads(manifest: Manifest) -> int:
    """The threads of one process, as it recorded them; verbs that record none have one."""
    found = manifest.extra.get("cpu_threads")
    return found if isinstance(found, int) and found > 0 else 1


def _processes(manifest: Manifest) -> int:
    """Ranks of a training; one for everything else."""
    found = manifest.extra.get("ranks")
    return found if isinstance(found, int) and found > 0 else 1


def _is_gpu(manifest: Manifest) -> bool:
    device = manifest.extra.get("device")
    kind = device.get("type") or device.get("name") if isinstance(device, dict) else device
    return bool(kind) and str(kind) != "cpu"


def trainings(found: dict[str, list[Training]]) -> Iterator[str]:
    """Training runs by arm: how many, how long, mostly for what; and each with its start and end."""
    known = [one for runs in found.values() for one in runs if one.manifest]
    if not known:
        yield "<p>No manifest of a training run was found, so nothing can be said of machines and times.</p>"
        return
    manifests = [one.manifest for one in known if one.manifest]
    yield f"<p>{_summary(known, manifests)}</p>"
    yield page.rows_part(
        ("arm", "runs", "steps", "a run took", "mostly for", "peak memory"),
        (_ran(arm, runs) for arm, runs in found.items()),
    )
    yield "<details><summary>Every run with its start and end</summary>"
    yield page.rows_part(
        ("run", "started (UTC)", "ended (UTC)", "took"),
        (_run(one) for runs in found.values() for one in runs),
    )
    yield "</details>"


def _summary(known: Sequence[Training], manifests: Sequence[Manifest]) -> str:
    total = history.duration(sum(one.seconds for one in known))
    commits = history.shared(map(history.commit, manifests))
    versions = history.shared(
        f"{name} {each.installed.packages[name]}"
        for name in PACKAGES
        for each in manifests
        if name in each.installed.packages
    )
    first, last = min(each.started for each in manifests), max(each.ended for each in manifests)
    where = history.shared(map(history.device, manifests))
    return (
        f"{len(known)} training runs, {total} of training in all, between {_time(first)} and {_time(last)} UTC,"
        f" on {escape(where)}."
        f" Python {escape(history.shared(each.installed.python for each in manifests))}; {escape(versions)}."
        f" Commit: {escape(commits)}."
    )


def _run(one: Training) -> tuple[str, ...]:
    name = "/".join(one.folder.parts[-2:])
    if one.manifest is None:
        return (name, "no record", "", "")
    return (name, _time(one.manifest.started), _time(one.manifest.ended), history.duration(one.seconds))


def _time(stamp: str) -> str:
    """A time stamp to the second, with a space for its T."""
    return stamp[:19].replace("T", " ")


def _ran(arm: str, runs: Sequence[Training]) -> tuple[str, ...]:
    """One arm's line: how many runs, how long, and where the time went."""
    recorded = [one for one in runs if one.manifest]
    took = history.duration(sum(one.seconds for one in recorded) / len(recorded)) if recorded else "no record"
    phases = _phases(runs)
    whole = sum(phases.values()) or 1.0
    parts = ", ".join(
        f"{phase} {100 * spent / whole:.0f} %" for phase, spent in phases.items() if spent / whole >= 0.02
    )
    peak = max((line.get("peak_memory_mb") or 0 for one in runs for line in one.timing), default=0)
    steps = history.shared(str(one.steps) for one in runs if one.timing)
    return (arm, f"{len(recorded)} of {len(runs)}", steps, took, parts, f"{peak:,.0f} MB" if peak else "")


def _phases(runs: Iterable[Training]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in runs:
        for phase, spent in one.phases.items():
            total[phase] = total.get(phase, 0.0) + spent
    return total
