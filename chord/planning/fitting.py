"""Whether a training fits a machine, which setting does not, and what would."""

from collections.abc import Iterator
from dataclasses import replace

from chord.config.planning import Dimensions, Lengths, Machine
from chord.config.study import Study
from chord.planning.memory import Peak, Setting, sampling_peak, training_peak

ROOM = 0.92  # of a device's memory: the allocator needs the rest


def longest_sequence(study: Study, lengths: Lengths) -> int:
    """Tokens of the longest sequence that a micro-batch must hold whole: a prompt with the longest answer allowed."""
    return int(max(study.rollouts.max_response_tokens, lengths.expert) + study.rollouts.max_prompt_tokens)


def fits(peak: Peak, machine: Machine) -> bool:
    """Whether the device's memory holds it."""
    return peak.device_gb <= ROOM * machine.memory_gb


def fullest(study: Study, shape: Dimensions, machine: Machine, setting: Setting, longest: int) -> Peak:
    """The fuller of the two moments of a step: sampling, and learning from micro-batches that hold the longest."""
    setting = replace(setting, micro_batch_tokens=max(setting.micro_batch_tokens, longest))
    moments = training_peak(study, shape, machine, setting), sampling_peak(study, shape, machine, setting, longest)
    return max(moments, key=lambda peak: peak.device_gb)


def verdict(study: Study, shape: Dimensions, machine: Machine, setting: Setting, longest: int) -> list[str]:
    """Sentences: it fits; or what does not, by how much, and the first change of settings that would."""
    setting = replace(setting, micro_batch_tokens=max(setting.micro_batch_tokens, longest))
    peak = fullest(study, shape, machine, setting, longest)
    if fits(peak, machine):
        return [
            f"needs {setting.ranks} x {machine.memory_gb:g} GB: a rank holds {peak.device_gb:.1f} GB at its fullest"
        ]
    part, most = max(peak.device.items(), key=lambda item: item[1])
    said = [
        f"does not fit {setting.ranks} x {machine.memory_gb:g} GB: a rank would hold {peak.device_gb:.1f} GB, of which"
        f" {part} {most:.1f} GB"
    ]
    for changed, words in _changes(setting, longest):
        found = fullest(study, shape, machine, changed, longest)
        if fits(found, machine):
            on_host = f", and {found.host_gb:.1f} GB of the host" if changed.offload else ""
            return [*said, f"would fit with {words}: {found.device_gb:.1f} GB a rank{on_host}"]
    return [*said, "no setting known here would fit: take more devices, larger ones or a shorter budget of tokens"]


def _changes(setting: Setting, longest: int) -> Iterator[tuple[Setting, str]]:
    """Other settings, the cheapest change first, each with its name in the study's file."""
    steps: list[tuple[dict[str, object], str]] = []
    if setting.micro_batch_tokens > longest:
        steps.append(({"micro_batch_tokens": longest}, f"execution.micro_batch_tokens: {longest}"))
    if not setting.recompute:
        steps.append(({"recompute": True}, "execution.recompute_activations: true"))
    for stage in range(setting.zero_stage + 1, 4):
        steps.append(({"zero_stage": stage}, f"execution.zero.stage: {stage}"))
    if not setting.offload:
        steps.append(({"offload": True}, "execution.zero.offload: optimiser"))
    words: dict[str, str] = {}
    for change, word in steps:
        setting = replace(setting, **change)  # pyright: ignore[reportArgumentType] # fields of the record
        words[word.split(":")[0]] = word
        yield setting, ", ".join(words.values())
