"""A plan in lines for a terminal."""

from collections.abc import Iterator
from typing import Any

from chord.planning import measured

SUMS = ("jobs", "hours", "device_hours", "learned_tokens", "sampled_tokens")


def told(estimate: dict[str, Any]) -> Iterator[str]:
    """The estimate in lines for a terminal."""
    many = f"{estimate['devices']} x {estimate['machine']}"
    yield f"study {estimate['study']}: {estimate['parameters'] / 1e6:,.1f} M parameters, trained on {many}"
    yield from (estimate["not_built"],) if "not_built" in estimate else ()
    yield ""
    yield f"{'rule':18}{'jobs':>6}{'hours':>10}{'device h':>10}{'tokens learned':>16}{'tokens sampled':>16}"
    total = {"rule": "together"} | dict.fromkeys(SUMS, 0)
    for rule in estimate["rules"]:
        yield _line(rule)
        total |= {key: total[key] + rule[key] for key in SUMS}
    yield _line(total)
    yield ""
    for moment in ("training", "sampling"):
        parts = estimate["memory"][moment]["device_gb"]
        listed = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if value >= 0.05)
        yield f"memory of a rank while {moment}: {sum(parts.values()):.1f} GB ({listed})"
    host = estimate["memory"]["host_gb"]
    yield (
        f"memory of the host: {host['each rank']:.1f} GB for each rank while it reads the weights,"
        f" {host['the first rank']:.1f} GB for the first while it saves"
    )
    disk = estimate["disk_gb"]
    more = disk["one_training_in_progress"]
    yield f"disk: {disk['models']:.1f} GB of models stay; {more:.1f} GB more for each training in progress"
    yield from ("", *estimate["verdict"])
    for start, model in estimate["models"].items() if len(estimate["models"]) > 1 else ():
        yield f"{start}, {model['name']}, {model['parameters'] / 1e6:,.1f} M parameters: {'; '.join(model['verdict'])}"
    if "against" in estimate:
        yield from ("", *measured.told(estimate["against"]))


def _line(rule: dict[str, Any]) -> str:
    return (
        f"{rule['rule']:18}{rule['jobs']:>6}{rule['hours']:>10.2f}{rule['device_hours']:>10.2f}"
        f"{rule['learned_tokens']:>16,.0f}{rule['sampled_tokens']:>16,.0f}"
    )
