"""Tokens, operations and seconds of each kind of job, from the recipe, the budgets and a machine. All are estimates.

A step of training is as long as its arithmetic at the machine's own speed, a step of decoding as long as reading the
weights and the keys and values, and neither shorter than its layers' least time (the roofline).
"""

import math
from dataclasses import dataclass

from chord.config.planning import Dimensions, Lengths, Machine
from chord.config.recipe import Recipe
from chord.config.sets import answered, split_of
from chord.config.study import Study
from chord.planning.model import (
    BYTES,
    cache_bytes,
    forward_operations,
    head_operations,
    head_parameters,
    layer_parameters,
    parameters,
)

TAIL = 3.0  # the longest answer of a batch, in mean lengths; bounded by the budget
FLOPS = 1e12


@dataclass(frozen=True)
class Cost:
    """Of one job on `devices` devices: seconds, and tokens that it learns from and samples."""

    seconds: float
    devices: int
    learned_tokens: float = 0.0
    sampled_tokens: float = 0.0

    @property
    def device_hours(self) -> float:
        """Hours of all its devices."""
        return self.seconds * self.devices / 3600


@dataclass(frozen=True)
class Bench:
    """What a cost is reckoned for: a study's policy on so many devices of a machine."""

    study: Study
    shape: Dimensions
    machine: Machine
    lengths: Lengths
    devices: int
    recompute: bool = False
    at_once: int = 0  # answers that are sampled side by side on a device; 0: as the study's own sampler does

    def training(self, arm: str, recipe: Recipe, rows: int) -> Cost:
        """One training; `rows` are the expert rows of a step."""
        study, steps = self.study, steps_of(self.study, recipe, rows)
        rollouts = study.rollouts.prompts_per_step * study.rollouts.per_prompt if recipe.needs_rollouts else 0
        sampling, imitating = recipe.mu.shares()
        answer = self.lengths.of(arm)
        trace = self.lengths.expert + self.lengths.prompt
        seconds = self.machine.start_seconds
        learned = sampling * rollouts * answer + imitating * rows * self.lengths.expert
        seconds += steps * self.learning(sampling * rollouts, answer) + steps * self.learning(imitating * rows, trace)
        if rollouts:
            seconds += steps * sampling * self.decoding(rollouts, answer)
        validations = 1 + math.ceil(steps / study.validation.every_steps)
        problems = study.validation.problems * study.validation.samples_per_problem
        seconds += validations * self.decoding(problems, answer)
        sampled = steps * sampling * rollouts * answer + validations * problems * answer
        return Cost(seconds, self.devices, steps * learned, sampled)

    def answering(self, answers: int, length: float) -> Cost:
        """One benchmark of one model: so many answers, sampled with the weights alone."""
        seconds = self.machine.start_seconds + self.decoding(answers, length)
        return Cost(seconds, self.devices, 0.0, answers * length)

    def learning(self, rows: float, length: float) -> float:
        """Seconds of the forward and backward passes over `rows` sequences, shared between the devices."""
        if rows <= 0:
            return 0.0
        tokens = rows * (length + self.lengths.prompt) / self.devices
        passes = 4 if self.recompute else 3  # backward is two forwards; with recomputation one more
        operations = passes * forward_operations(self.shape, tokens, length) + 4 * head_operations(self.shape, tokens)
        batches = math.ceil(tokens / self.study.execution.micro_batch_tokens)
        least = batches * passes * self.shape.num_hidden_layers * self.machine.layer_seconds
        return max(operations / (self._speed() * self.machine.trains_at), least)

    def decoding(self, rows: float, length: float) -> float:
        """Seconds until the last of `rows` answers of this mean length is done, shared between the devices."""
        study = self.study
        each = math.ceil(rows / self.devices)
        longest = min(study.rollouts.max_response_tokens, TAIL * length)
        seconds = 0.0
        while each > 0:
            batch = min(each, self.at_once or study.execution.sampler_rows)
            seconds += longest * self._decode_step(batch, length, longest)
            each -= batch
        return seconds

    def _decode_step(self, batch: int, length: float, longest: float) -> float:
        """Seconds of one token for each row still running; a row runs for `length` of `longest` steps on average."""
        running = max(1.0, batch * length / longest)
        dtype = self.study.execution.compute_dtype
        context = self.lengths.prompt + length / 2
        read = BYTES[dtype] * (parameters(self.shape) - (0 if self.shape.tied else head_parameters(self.shape)))
        read += running * context * cache_bytes(self.shape, dtype)
        memory = read / (self.machine.bandwidth_gb_s * 1e9 * self.machine.decodes_at)
        layer = layer_parameters(self.shape, self.shape.experts_per_token)
        matrices = self.shape.num_hidden_layers * layer + head_parameters(self.shape)
        arithmetic = 2 * running * matrices / (self._speed() * self.machine.decodes_at)
        return max(memory, arithmetic, self.shape.num_hidden_layers * self.machine.layer_seconds)

    def _speed(self) -> float:
        """Operations a second of one device at best, in the study's dtype."""
        known, dtype = self.machine.tflops, self.study.execution.compute_dtype
        return FLOPS * known.get(dtype, min(known.values()))


def steps_of(study: Study, recipe: Recipe, rows: int) -> int:
    """Updates of a training; epochs are passes over the expert set that it reads."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return max(1, math.ceil(recipe.epochs * split_of(study, answered(study, recipe.traces)).size / rows - 1e-9))
