"""What an experiment is: typed, frozen, unknown keys refused. Knows YAML; knows no torch and no results folder.

Every file under `config/` is read here and nowhere else. `load` checks all of them together and raises one
`ConfigError` that lists every problem as: file, key, what was found, what was expected.
"""

from chord.config.artefacts import (
    Artefact,
    Categories,
    Choice,
    Figure,
    Lengths,
    Panel,
    Paper,
    Scheme,
    Shown,
    Table,
    Tabled,
)
from chord.config.claims import Cells, Claims, Curves, Elsewhere, Evidence, PaperClaim, Rise, Turn
from chord.config.datasets import Dataset, Filters
from chord.config.experts import Expert, ExpertPublished, ExpertScripted, ExpertServed
from chord.config.loading import load
from chord.config.lock import Lock
from chord.config.models import Architecture, Model
from chord.config.project import Project, Run
from chord.config.recipe import Arm, Recipe
from chord.config.study import (
    AnswerForm,
    Arithmetic,
    BaseCorpus,
    Benchmark,
    CorpusPart,
    Data,
    Execution,
    Grading,
    Groups,
    Optimiser,
    OtherExpert,
    OtherModel,
    PolicyLoss,
    Rollouts,
    Sampling,
    Split,
    Study,
    Task,
    Validation,
)
from chord.config.vllm import Vllm
from chord.config.zero import Zero
from chord.settings import ConfigError, Frozen

__all__ = [
    "AnswerForm",
    "Architecture",
    "Arithmetic",
    "Arm",
    "Artefact",
    "BaseCorpus",
    "Benchmark",
    "Categories",
    "Cells",
    "Choice",
    "Claims",
    "ConfigError",
    "CorpusPart",
    "Curves",
    "Data",
    "Dataset",
    "Elsewhere",
    "Evidence",
    "Execution",
    "Expert",
    "ExpertPublished",
    "ExpertScripted",
    "ExpertServed",
    "Figure",
    "Filters",
    "Frozen",
    "Grading",
    "Groups",
    "Lengths",
    "Lock",
    "Model",
    "Optimiser",
    "OtherExpert",
    "OtherModel",
    "Panel",
    "Paper",
    "PaperClaim",
    "PolicyLoss",
    "Project",
    "Recipe",
    "Rise",
    "Rollouts",
    "Run",
    "Sampling",
    "Scheme",
    "Shown",
    "Split",
    "Study",
    "Table",
    "Tabled",
    "Task",
    "Turn",
    "Validation",
    "Vllm",
    "Zero",
    "load",
]
