"""What a step is fed: expert rows, answers to validation problems, graded rollouts. P prompts, G rollouts of each.

The only place where sampler, grader, rewards and advantages meet. Arms that only imitate import no grader.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from chord.config.project import Run
from chord.data.prompts import prompt_ids, response_ids
from chord.errors import UserError
from chord.objective import ADVANTAGES
from chord.records import Outcome, Problem, Trace, ValidationAnswer, derive
from chord.sampling.protocol import Request, Sampled, Sampler
from chord.training.batch import Sequence, rows_at
from chord.training.engine import World

if TYPE_CHECKING:
    from chord.grading.graders import Grader

# --- feed ----------------------------------------------------------------------------------------

# What a step of any arm is fed: expert rows, and answers to the validation problems.


@dataclass(frozen=True)
class Feed:
    """Expert traces and validation problems as this rank sees them."""

    run: Run
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    world: World
    traces: List[Trace]
    validation: List[Problem]
    _ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def experts(self, position: int, count: int) -> list[Sequence]:
        """This rank's share of the next `count` expert rows from `position` of the stream."""
        rows = rows_at(position, count, len(self.traces), self.run.seed, "experts")
        return [self.expert(self.traces[row]) for row in rows[self.world.rank :: self.world.size]]

    def expert(self, trace: Trace, advantage: float = 0.0) -> Sequence:
        """One expert trace as a sequence that teaches."""
        return Sequence(
            name=f"expert trace {trace.id}",
            prompt=self.prompt(trace.prompt),
            response=tuple(response_ids(self.tokenizer, trace.response)),
            is_expert=True,
            advantage=advantage,
        )

    def validate(self, step: int) -> list[ValidationAnswer]:
        """Answers to the validation problems at the training temperature, those of all ranks, by problem and sample."""
        settings, world = self.run.validation, self.world
        asked = list(self.validation[: settings.problems])
        count = settings.samples_per_problem
        mine = asked[world.rank :: world.size]
        answers = [
            ValidationAnswer(step, mine[at // count].id, at % count, self.text(one), one.finish, len(one.ids))
            for at, one in enumerate(self.sample(mine, count, ("validation", step)))
        ]
        order = {problem.id: place for place, problem in enumerate(asked)}
        everyone = [answer for rank in world.gather(answers) for answer in rank]
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


# --- rollout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollouts:
    """One step's rollouts of this rank, with what the whole batch's rewards say."""

    sequences: list[Sequence]
    outcomes: dict[str, int]  # over all ranks
    mean_reward: float  # over all ranks
    mean_tokens: float  # over all ranks


@dataclass(frozen=True)
class Practice:
    """The prompts that the policy practises on, and the grader that judges what it writes."""

    feed: Feed
    grader: "Grader"
    prompts: List[Problem]

    def rollouts(self, step: int) -> Rollouts:
        """Samples, grades and compares the rollouts of `step`; each rank has every size-th prompt."""
        run, world = self.feed.run, self.feed.world
        assert run.rollouts is not None
        size, count = run.rollouts.prompts_per_step, run.rollouts.per_prompt
        rows = rows_at(step * size, size, len(self.prompts), run.seed, "prompts")
        mine = [self.prompts[row] for row in rows[world.rank :: world.size]]
        samples = self.feed.sample(mine, count, ("rollout", step))
        texts = [self.feed.text(sample) for sample in samples]
        answers = [
            (text, sample.finish, mine[at // count].answer)
            for at, (text, sample) in enumerate(zip(texts, samples, strict=True))
        ]
        outcomes = self.grader.grade_all(answers, per_problem=count)
        rewards = [self._reward(outcome, text) for outcome, text in zip(outcomes, texts, strict=True)]
        sequences: list[Sequence] = []
        if mine:
            values = torch.tensor(rewards, dtype=torch.float64).reshape(-1, count)
            sequences = self._with_advantages(step, mine, samples, values)
        sums = world.sum([sum(rewards), float(sum(len(s.ids) for s in samples)), float(len(samples))])
        return Rollouts(sequences, self._count(outcomes), sums[0] / sums[2], sums[1] / sums[2])

    def graded(self, answers: List[ValidationAnswer]) -> tuple[float, dict[str, int]]:
        """Accuracy of validation answers, which every rank has all of, and how often each outcome occurred."""
        world = self.feed.world
        right = {problem.id: problem.answer for problem in self.feed.validation}
        mine = answers[world.rank :: world.size]
        outcomes = self._count(self.grader.grade_all([(one.text, one.finish, right[one.problem]) for one in mine]))
        return outcomes["right"] / len(answers), outcomes

    def check_experts(self, solved: List[Problem], file: Path) -> None:
        """Expert and reward agree: raises UserError for traces that the grader does not find right.

        `solved` are the problems that the traces, read from `file`, answer.
        """
        world, answers = self.feed.world, {problem.id: problem.answer for problem in solved}
        faults: list[tuple[str, str]] = []
        for trace in self.feed.traces[world.rank :: world.size]:
            answer = answers.get(trace.problem)
            outcome = "no problem of its own" if answer is None else self.grader.grade(trace.response, "stop", answer)
            if outcome is not Outcome.RIGHT:
                faults.append((trace.id, str(outcome)))
        faults = [fault for rank in world.gather(faults) for fault in rank]
        if faults:
            first, outcome = min(faults)
            raise UserError(
                f"{file}: found {len(faults)} of {len(self.feed.traces)} expert traces that the grader of the rewards"
                f" does not find right, '{first}' first: {outcome}, expected right; the expert would teach what the"
                " reward punishes: leave those traces out, or change `grading` of the study"
            )

    def _with_advantages(
        self, step: int, problems: List[Problem], samples: List[Sampled], rewards: torch.Tensor
    ) -> list[Sequence]:
        """The rollouts as sequences; for LUFFY each group is joined by its prompt's expert trace."""
        run = self.feed.run
        assert run.rollouts is not None and run.policy_loss is not None
        count = run.rollouts.per_prompt
        joined: list[Sequence] = []
        experts = [self._aligned[problem.id] for problem in problems] if run.recipe.traces == "aligned" else []
        worth = torch.tensor([self._reward(Outcome.RIGHT, trace.response) for trace in experts], dtype=torch.float64)
        compare = ADVANTAGES[run.recipe.method]
        advantages, of_experts = compare(rewards, worth if experts else None, run.policy_loss.advantage_epsilon)
        if of_experts is not None:
            pairs = zip(experts, of_experts.tolist(), strict=True)
            joined = [self.feed.expert(trace, advantage) for trace, advantage in pairs]
        flat = advantages.flatten().tolist()
        prompts = [self.feed.prompt(problem.prompt) for problem in problems for _ in range(count)]
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

    @cached_property
    def _aligned(self) -> dict[str, Trace]:
        return {trace.problem: trace for trace in self.feed.traces}

    def _reward(self, outcome: Outcome, text: str) -> float:
        assert self.feed.run.grading is not None
        from chord.grading.graders import reward

        return reward(outcome, text, self.feed.run.grading.reward)

    def _count(self, outcomes: List[Outcome]) -> dict[str, int]:
        """How often each outcome occurred, over all ranks."""
        mine = Counter(outcomes)
        totals = self.feed.world.sum([float(mine[outcome]) for outcome in Outcome])
        return {outcome.value: int(total) for outcome, total in zip(Outcome, totals, strict=True)}


@contextmanager
def practice_of(run: Run) -> "Iterator[Callable[[Feed, List[Problem]], Practice]]":
    """Makes the practice of a run; the grader that pays its rewards is open meanwhile."""
    assert run.grading is not None, "a recipe with rollouts is graded"
    from chord.grading.graders import Grader

    with Grader(run.grading) as grader:
        yield lambda feed, prompts: Practice(feed, grader, prompts)
