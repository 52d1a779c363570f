"""What a step of any arm is fed: expert rows, and answers to the validation problems. Knows no grader and no reward.

Part of the verb `train`. What only arms with rollouts need is in `chord.rollout`, so that an edit of a grader or a
reward concerns no arm that imitates.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from chord.config.project import Run
from chord.learner.order import rows_at
from chord.learner.packing import Sequence
from chord.learner.world import World
from chord.records import Problem, Trace, ValidationAnswer, derive
from chord.sampling.protocol import Request, Sampled, Sampler
from chord.tasks.prompts import prompt_ids, response_ids


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
