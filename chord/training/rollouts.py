"""What a step learns from: expert rows, and graded rollouts with their advantages. P prompts, G rollouts of each.

The only place where sampler, grader, rewards and advantages meet. Arms that only imitate import no grader.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as List
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from chord.config.project import Run
from chord.data.prompts import prompt_ids, response_ids
from chord.errors import UserError
from chord.objective import ADVANTAGES
from chord.reach import PlugPoint
from chord.records import Outcome, Problem, Request, Sampled, Sampler, Trace, ValidationAnswer
from chord.settings import derive
from chord.training.engine import World
from chord.training.gradient import Sequence

if TYPE_CHECKING:
    from chord.grading.graders import Grader

Item = TypeVar("Item")


def rows_at(position: int, count: int, size: int, seed: int, purpose: str) -> list[int]:
    """Rows `position` to `position + count` of an endless stream of shuffled epochs over `size` rows.

    A pure function: each epoch is every row once, in an order of its own.
    """
    if size < 1:
        raise ValueError(f"found {size} rows to read for {purpose}, expected at least one")
    rows: list[int] = []
    while len(rows) < count:
        epoch, start = divmod(position + len(rows), size)
        shuffled = np.random.Generator(np.random.Philox(key=derive(seed, purpose, epoch))).permutation(size)
        rows += shuffled[start : start + count - len(rows)].tolist()
    return rows


@dataclass(frozen=True)
class Feed:
    """What any arm reads: expert traces, and answers to validation problems, as this rank sees them."""

    run: Run
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    world: World
    traces: List[Trace]
    validation: List[Problem]
    _ids: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    _responses: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def experts(self, position: int, count: int) -> list[Sequence]:
        """This rank's share of the next `count` expert rows from `position` of the stream."""
        rows = rows_at(position, count, len(self.traces), self.run.seed, "experts")
        return [self.expert(self.traces[row]) for row in self.share(rows)]

    def expert(self, trace: Trace, advantage: float = 0.0) -> Sequence:
        """One expert trace as a sequence that teaches; each response becomes tokens once."""
        if trace.response not in self._responses:
            self._responses[trace.response] = tuple(response_ids(self.tokenizer, trace.response))
        response = self._responses[trace.response]
        return Sequence(f"expert trace {trace.id}", self.prompt(trace.prompt), response, True, advantage)

    def validate(self, step: int, steps: int) -> list[ValidationAnswer]:
        """Answers to the validation problems after `step` of `steps` steps, by all ranks; by problem and sample."""
        asked = list(self.validation[: self.run.validation.problems])
        count, mine = self.run.validation.samples_at(step, steps), self.share(asked)
        answers = [
            ValidationAnswer(step, mine[at // count].id, at % count, self.text(one), one.finish, len(one.ids))
            for at, one in enumerate(self.sample(mine, count, ("validation", step)))
        ]
        order = {problem.id: place for place, problem in enumerate(asked)}
        everyone = [answer for rank in self.world.gather(answers) for answer in rank]
        return sorted(everyone, key=lambda answer: (order[answer.problem], answer.sample))

    def sample(self, problems: List[Problem], count: int, purpose: tuple[str, int]) -> list[Sampled]:
        """`count` responses to each problem, grouped by problem; every one has a seed of its own."""
        settings = self.run.sampling
        requests = [
            Request(problem.id, self.prompt(problem.prompt), derive(self.run.seed, *purpose, problem.id, k))
            for problem in problems
            for k in range(count)
        ]
        return self.sampler.sample(requests, settings.max_response_tokens, settings.temperature)

    def prompt(self, text: str) -> tuple[int, ...]:
        """The prompt's tokens; each text goes through the chat template once."""
        if text not in self._ids:
            self._ids[text] = tuple(prompt_ids(self.tokenizer, text, date=self.run.prompt_date))
        return self._ids[text]

    def text(self, sample: Sampled) -> str:
        """What the policy wrote; the end token is not part of it."""
        ids = sample.ids[:-1] if sample.finish == "stop" else sample.ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def share(self, items: List[Item]) -> List[Item]:
        """What of a list this rank takes."""
        return items[self.world.rank :: self.world.size]


@dataclass(frozen=True)
class Rollouts:
    """One step's rollouts of this rank, with what the whole batch's rewards say."""

    sequences: list[Sequence]
    outcomes: dict[str, int]  # over all ranks
    mean_reward: float  # over all ranks
    mean_tokens: float  # over all ranks


@dataclass(frozen=True)
class Practice:
    """The prompts that the policy answers to learn from, and the grader that judges what it writes."""

    feed: Feed
    grader: "Grader"
    prompts: List[Problem]

    def rollouts(self, step: int) -> Rollouts:
        """Samples, grades and compares the rollouts of `step`; each rank has every size-th prompt."""
        run, feed = self.feed.run, self.feed
        assert run.rollouts is not None, "a recipe with rollouts has their number"
        size, count = run.rollouts.prompts_per_step, run.recipe.rollouts_of(run.rollouts.per_prompt)
        rows = rows_at(step * size, size, len(self.prompts), run.seed, "prompts")
        mine = [self.prompts[row] for row in feed.share(rows)]
        samples = feed.sample(mine, count, ("rollout", step))
        answers = [(feed.text(one), one.finish, mine[at // count].answer) for at, one in enumerate(samples)]
        outcomes = self.grader.grade_all(answers, per_problem=count)
        rewards = [self._reward(outcome, text) for outcome, (text, _, _) in zip(outcomes, answers, strict=True)]
        sequences = self._with_advantages(step, mine, samples, rewards) if mine else []
        lengths = float(sum(len(one.ids) for one in samples))
        reward, tokens, number = feed.world.sum([sum(rewards), lengths, float(len(samples))])
        return Rollouts(sequences, self._count(outcomes), reward / number, tokens / number)

    def graded(self, answers: List[ValidationAnswer]) -> tuple[float, dict[str, int]]:
        """Accuracy of validation answers, which every rank has all of, and how often each outcome occurred."""
        right = {problem.id: problem.answer for problem in self.feed.validation}
        asked = [(one.text, one.finish, right[one.problem]) for one in self.feed.share(answers)]
        outcomes = self._count(self.grader.grade_all(asked))
        return outcomes["right"] / len(answers), outcomes

    def check_experts(self, solved: List[Problem], file: Path) -> None:
        """Expert and reward agree: raises UserError for traces that the grader does not find right.

        `solved` are the problems that the traces, read from `file`, answer.
        """
        traces, answers = self.feed.traces, {problem.id: problem.answer for problem in solved}
        faults: list[tuple[str, str]] = []
        for trace in self.feed.share(traces):
            answer = answers.get(trace.problem)
            outcome = "no problem of its own" if answer is None else self.grader.grade(trace.response, "stop", answer)
            if outcome is not Outcome.RIGHT:
                faults.append((trace.id, str(outcome)))
        faults = [fault for rank in self.feed.world.gather(faults) for fault in rank]
        if faults:
            first, outcome = min(faults)
            raise UserError(
                f"{file}: found {len(faults)} of {len(traces)} expert traces that the grader of the rewards does not"
                f" find right, '{first}' first: {outcome}, expected right; the expert would teach what the reward"
                " punishes: leave those traces out, or change `grading` of the study"
            )

    def _with_advantages(
        self, step: int, problems: List[Problem], samples: List[Sampled], rewards: List[float]
    ) -> list[Sequence]:
        """The rollouts as sequences; for LUFFY each group is joined by its prompt's expert trace."""
        run, feed, count = self.feed.run, self.feed, len(samples) // len(problems)
        assert run.policy_loss is not None, "a recipe with rollouts has a policy loss"
        experts = [self._aligned[problem.id] for problem in problems] if run.recipe.traces == "aligned" else []
        worth = torch.tensor([self._reward(Outcome.RIGHT, trace.response) for trace in experts], dtype=torch.float64)
        advantages, of_experts = ADVANTAGES[run.recipe.method](
            torch.tensor(rewards, dtype=torch.float64).reshape(-1, count),
            worth if experts else None,
            run.policy_loss.advantage_epsilon,
        )
        values = [float(one) for one in advantages.flatten()]
        joined = [] if of_experts is None else list(map(feed.expert, experts, map(float, of_experts)))
        for index, (sample, advantage) in enumerate(zip(samples, values, strict=True)):
            problem, response, logp = problems[index // count], tuple(sample.ids), tuple(sample.logp)
            name = f"step {step}: {problem.id} rollout {index % count}"
            joined.append(Sequence(name, feed.prompt(problem.prompt), response, False, advantage, logp))
        return joined

    @cached_property
    def _aligned(self) -> dict[str, Trace]:
        return {trace.problem: trace for trace in self.feed.traces}

    def _reward(self, outcome: Outcome, text: str) -> float:
        from chord.grading.graders import reward

        assert self.feed.run.grading is not None, "a recipe with rollouts is graded"
        return reward(outcome, text, self.feed.run.grading.reward)

    def _count(self, outcomes: List[Outcome]) -> dict[str, int]:
        """How often each outcome occurred, over all ranks."""
        mine = Counter(outcomes)
        totals = self.feed.world.sum([float(mine[outcome]) for outcome in Outcome])
        return {outcome.value: int(total) for outcome, total in zip(Outcome, totals, strict=True)}


# What answers are practiced and graded with, for recipes with rollouts; none for one that only imitates, which never
# imports a grader. The grader ends with the stack.
PRACTICE = PlugPoint[Callable[[ExitStack, Feed, list[Problem]], Practice | None]]("practice")


@PRACTICE.entry("rollouts")
def _graded_practice(stack: ExitStack, feed: Feed, prompts: list[Problem]) -> Practice:
    from chord.grading.graders import Grader

    assert feed.run.grading is not None, "a recipe with rollouts is graded"
    return Practice(feed, stack.enter_context(Grader(feed.run.grading)), prompts)


@PRACTICE.entry("none")
def _no_practice(_stack: ExitStack, _feed: Feed, _prompts: list[Problem]) -> None:
    return None
