"""What one training step is fed: graded rollouts, expert rows, validation. P prompts, G rollouts of each.

Part of the verb `train`, kept beside it: the only place where sampler, grader and advantages meet.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass, field
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from chord.config import Run
from chord.learner.order import rows_at
from chord.learner.packing import Sequence
from chord.learner.world import World
from chord.objective.advantages import group_advantages
from chord.records import Outcome, Problem, Trace
from chord.sampling.protocol import Request, Sampled, Sampler
from chord.seeds import derive
from chord.tasks.graders import Grader
from chord.tasks.prompts import prompt_ids, response_ids
from chord.tasks.rewards import reward


@dataclass(frozen=True)
class Rollouts:
    """One step's rollouts of this rank, with what the whole batch's rewards say."""

    sequences: list[Sequence]
    outcomes: dict[str, int]  # over all ranks
    mean_reward: float  # over all ranks
    mean_tokens: float  # over all ranks


@dataclass(frozen=True)
class Feed:
    """Everything a step is drawn from."""

    run: Run
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    grader: Grader
    world: World
    prompts: List[Problem]
    traces: List[Trace]
    validation: List[Problem]
    _ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def rollouts(self, step: int) -> Rollouts:
        """Samples, grades and compares the rollouts of `step`; each rank has every size-th prompt."""
        run, world = self.run, self.world
        rows = rows_at(
            step * run.rollouts.prompts_per_step, run.rollouts.prompts_per_step, len(self.prompts), run.seed, "prompts"
        )
        mine = [self.prompts[row] for row in rows[world.rank :: world.size]]
        count = run.rollouts.per_prompt
        samples = self._sample(mine, count, ("rollout", step))
        graded = self._grade(mine, count, samples)
        rewards = [reward(outcome, text, run.grading.reward) for outcome, text in graded]
        sequences: list[Sequence] = []
        if mine:
            values = torch.tensor(rewards, dtype=torch.float64).reshape(-1, count)
            sequences = self._with_advantages(step, mine, samples, values)
        sums = world.sum([sum(rewards), float(sum(len(s.ids) for s in samples)), float(len(samples))])
        return Rollouts(sequences, self._count(graded), sums[0] / sums[2], sums[1] / sums[2])

    def experts(self, position: int, count: int) -> list[Sequence]:
        """This rank's share of the next `count` expert rows from `position` of the stream."""
        rows = rows_at(position, count, len(self.traces), self.run.seed, "experts")
        return [self._expert(self.traces[row]) for row in rows[self.world.rank :: self.world.size]]

    def validate(self, step: int) -> dict[str, float | dict[str, int]]:
        """Accuracy and length on the validation set at the training temperature."""
        settings = self.run.validation
        problems = list(self.validation[: settings.problems])[self.world.rank :: self.world.size]
        samples = self._sample(problems, settings.samples_per_problem, ("validation", step))
        outcomes = self._count(self._grade(problems, settings.samples_per_problem, samples))
        tokens, total = self.world.sum([float(sum(len(s.ids) for s in samples)), float(len(samples))])
        return {"accuracy": outcomes["right"] / total, "response_tokens": tokens / total, "outcomes": outcomes}

    def _with_advantages(
        self, step: int, problems: List[Problem], samples: List[Sampled], rewards: torch.Tensor
    ) -> list[Sequence]:
        """The rollouts as sequences; for LUFFY each group is joined by its prompt's expert trace."""
        run, count = self.run, self.run.rollouts.per_prompt
        joined: list[Sequence] = []
        if run.recipe.method == "luffy":
            from chord.objective.luffy import luffy_advantages

            experts = [self._aligned[problem.id] for problem in problems]
            worth = [reward(Outcome.RIGHT, trace.response, run.grading.reward) for trace in experts]
            advantages, expert_advantages = luffy_advantages(rewards, torch.tensor(worth, dtype=torch.float64))
            joined = [
                self._expert(trace, float(advantage))
                for trace, advantage in zip(experts, expert_advantages, strict=True)
            ]
        else:
            advantages = group_advantages(rewards, run.policy_loss.advantage_epsilon)
        flat = advantages.flatten().tolist()
        prompts = [self._prompt(problem.prompt) for problem in problems for _ in range(count)]
        return joined + [
            Sequence(
                name=f"step {step}: {problems[index // count].id} rollout {index % count}",
                prompt=prompts[index],
                response=tuple(sample.ids),
                is_expert=False,
                advantage=flat[index],
                sampler_logp=tuple(sample.logp),
            )
            for index, sample in enumerate(samples)
        ]

    def _expert(self, trace: Trace, advantage: float = 0.0) -> Sequence:
        return Sequence(
            name=f"expert trace {trace.id}",
            prompt=self._prompt(trace.prompt),
            response=tuple(response_ids(self.tokenizer, trace.response)),
            is_expert=True,
            advantage=advantage,
        )

    @cached_property
    def _aligned(self) -> dict[str, Trace]:
        return {trace.problem: trace for trace in self.traces}

    def _prompt(self, text: str) -> tuple[int, ...]:
        """The prompt's tokens; each text goes through the chat template once."""
        if text not in self._ids:
            self._ids[text] = tuple(prompt_ids(self.tokenizer, text))
        return self._ids[text]

    def _sample(self, problems: List[Problem], count: int, purpose: tuple[str, int]) -> list[Sampled]:
        """`count` responses to each problem, grouped by problem; every one has a seed of its own."""
        rollouts = self.run.rollouts
        requests = [
            Request(problem.id, self._prompt(problem.prompt), derive(self.run.seed, *purpose, problem.id, k))
            for problem in problems
            for k in range(count)
        ]
        return self.sampler.sample(requests, rollouts.max_response_tokens, rollouts.temperature)

    def _grade(self, problems: List[Problem], count: int, samples: List[Sampled]) -> list[tuple[Outcome, str]]:
        """Outcome and text of each sample; the end token is not part of the text."""
        graded: list[tuple[Outcome, str]] = []
        for index, sample in enumerate(samples):
            ids = sample.ids[:-1] if sample.finish == "stop" else sample.ids
            text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
            graded.append((self.grader.grade(text, sample.finish, problems[index // count].answer), text))
        return graded

    def _count(self, graded: List[tuple[Outcome, str]]) -> dict[str, int]:
        """How often each outcome occurred, over all ranks."""
        mine = [float(sum(found is outcome for found, _ in graded)) for outcome in Outcome]
        return {outcome.value: int(total) for outcome, total in zip(Outcome, self.world.sum(mine), strict=True)}
