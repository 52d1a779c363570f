"""Which code a training or a set cannot reach, so that an edit of it concerns others alone. Knows names, no code."""

from functools import cache

from chord.config.recipe import MuAdaptive, MuDecay, MuGradientNorm, Recipe
from chord.config.sets import is_published, source_of
from chord.config.study import Arithmetic, Study

# Functions of chord.objective.weights, by the token weight that alone uses them.
WEIGHTS = {
    "one": ("one",),
    "p": ("probability",),
    "p(1-p)": ("phi",),
    "entropy-norm": ("entropy_share",),
    "entropy-top": ("entropy_above", "top_threshold"),
    "is-clip": ("clipped_probability",),
    "focal": ("focal",),
}


# What only the grader of BFCL's benchmark and the drawing of its problems reach; rewards are never paid by it.
OF_BFCL = ("chord.tasks.bfcl",)

# Modules of chord that one sampler alone uses, by its name in `execution.sampler`.
SAMPLERS = {
    "transformers": ("chord.sampling.transformers_sampler",),
    "vllm": ("chord.handover", "chord.sampling.checksums", "chord.sampling.vllm_sampler"),
}


def beside_training(recipe: Recipe, execution: Arithmetic) -> tuple[str, ...]:
    """Modules, and single functions, that training cannot reach with this recipe on a machine used so."""
    of_recipe = beside_recipe(recipe)  # pyright: ignore[reportArgumentType] # frozen, so hashable
    return tuple(sorted({*of_recipe, *beside_execution(execution)}))


def beside_execution(execution: Arithmetic) -> tuple[str, ...]:
    """Modules that training cannot reach on a machine used so."""
    beside = [name for sampler, names in SAMPLERS.items() if sampler != execution.sampler for name in names]
    beside += OF_BFCL
    return tuple(beside if execution.zero.stage else [*beside, "chord.learner.preflight", "chord.learner.zero"])


@cache
def beside_recipe(recipe: Recipe) -> tuple[str, ...]:
    """Modules, and single functions, that training with this recipe cannot reach; a test trains every arm without."""
    beside: list[str] = []
    if recipe.method != "luffy":
        beside += ["chord.learner.luffy_step", "chord.objective.luffy"]
    if not isinstance(recipe.mu, MuGradientNorm):
        beside += ["chord.learner.sasr_step", "chord.objective.sasr"]
    if not isinstance(recipe.mu, MuDecay):
        beside.append("chord.objective.schedules:decayed_mu")
    if not isinstance(recipe.mu, MuAdaptive):
        beside.append("chord.objective.schedules:adaptive_mu")
    for weight, functions in WEIGHTS.items():
        if not recipe.needs_experts or recipe.expert_tokens.weight != weight:
            beside += [f"chord.objective.weights:{name}" for name in functions]
    if not recipe.needs_experts:
        beside.append("chord.objective.losses:imitation")
    if not recipe.needs_rollouts:
        beside += ["chord.rollout", "chord.objective.losses:policy_gradient"]
        beside.append("chord.objective.losses:truncated_correction")
    if recipe.needs_rollouts and recipe.method == "luffy":
        beside.append("chord.objective.advantages:group_advantages")
    if recipe.init != "random":
        beside.append("chord.learner.blank")
    return tuple(sorted(beside))


def beside_problems(study: Study, problems: str) -> tuple[str, ...]:
    """Modules that drawing this set of problems cannot reach."""
    of_sources = {"hub": ("chord.tasks.hub_set",), "package": ("chord.tasks.packaged",)}
    source = source_of(study, problems)
    beside = [name for other, names in of_sources.items() if other != source for name in names]
    return tuple(beside) if source == "package" else (*beside, *OF_BFCL)


def beside_scores(study: Study, benchmark: str) -> tuple[str, ...]:
    """Modules that scoring answers to this benchmark cannot reach."""
    return () if study.form_of(benchmark).grader == "bfcl" else OF_BFCL


def beside_traces(study: Study, traces: str) -> tuple[str, ...]:
    """Modules that writing this set of traces cannot reach."""
    if is_published(study, traces):
        return ()
    return ("chord.provenance.fetched", "chord.tasks.published", "chord.tasks.rows")


def beside_answers(answers: str) -> tuple[str, ...]:
    """What `chord.generate` cannot reach where `execution.answers` is this."""
    return {
        "transformers": ("chord.generate:vllm_answerer", "chord.sampling.vllm_harness", "chord.sampling.vllm_setup"),
        "vllm": ("chord.generate:load_answerer", "chord.learner", "chord.sampling.transformers_sampler"),
    }[answers]
