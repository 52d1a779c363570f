"""What was run, where and for how long, out of the manifests and timings of training runs. Trains nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chord.findings.reading import read_metrics
from chord.provenance.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Training:
    """One training run as its manifest and its timings tell it; nothing is known where there is no manifest."""

    name: str
    folder: Path
    manifest: Manifest | None
    timing: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """The last step that was timed."""
        return int(self.timing[-1]["step"]) if self.timing else 0

    @property
    def seconds(self) -> float:
        """How long it took: the timed steps, also those before a restart; the last attempt if that is longer."""
        return max(self.manifest.seconds if self.manifest else 0.0, sum(self.phases.values()))

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, over the whole run."""
        total: dict[str, float] = {}
        for line in self.timing:
            for phase, seconds in (line.get("seconds") or {}).items():
                total[phase] = total.get(phase, 0.0) + float(seconds or 0)
        return total


def read_training(name: str, folder: Path) -> Training:
    """The run in the folder; damaged records are refused, missing ones leave it unknown."""
    manifest, timing = folder / "train.manifest.json", folder / "timing.jsonl"
    return Training(
        name,
        folder,
        read_manifest(manifest) if manifest.exists() else None,
        read_metrics(timing) if timing.exists() else [],
    )


def device(manifest: Manifest) -> str:
    """What computed: the device that training recorded, else the processor."""
    found = manifest.extra.get("device")
    if isinstance(found, Mapping):
        found = found.get("name") or found.get("type")
    processor = f"{manifest.machine.get('cpu', 'unknown processor')}, {manifest.machine.get('cores', '?')} cores"
    return f"{found} ({processor})" if found and found != "cpu" else processor


def commit(manifest: Manifest) -> str:
    """The commit that was run, and whether the tree differed from it."""
    if manifest.git.commit is None:
        return f"unknown ({manifest.git.why})"
    return manifest.git.commit[:12] + (" with uncommitted changes" if manifest.git.dirty else "")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def shared(values: Iterable[str]) -> str:
    """All different values, in the order they come."""
    return "; ".join(dict.fromkeys(values))
