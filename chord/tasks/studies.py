"""The study that a verb was told of by its file. Knows nothing of what is in it."""

from pathlib import Path

from chord.config.load import load
from chord.config.study import Study
from chord.provenance.files import UserError
from chord.reach import decides_nothing


@decides_nothing("what config/ says reaches a job as values, which its manifest records")
def read_study(file: Path) -> Study:
    """The study described in `file`, which lies in config/studies; all that it stands on is checked with it.

    Raises UserError for a file elsewhere or none, ConfigError for one that cannot be run.
    """
    folder = file.resolve().parent
    if not file.is_file() or (folder.parent.name, folder.name) != ("config", "studies"):
        found = "no such file" if not file.exists() else "something else"
        raise UserError(f"{file}: found {found}, expected the file of a study, config/studies/NAME.yaml")
    return load(folder.parents[1], study=file.stem, others=False).study
