"""The parts of a manifest: files as they were, code, git, the attempt, what was installed. Reads and writes nothing."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Root = Literal["study", "project", "code", "elsewhere"]


class Part(BaseModel):
    """Base of all parts of a manifest: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Content(Part):
    """A file or folder as it was. `path` is relative to `root`, so that it holds after a move; see `locate`."""

    path: str
    root: Root = Field(description="study: results/STUDY; project: what holds results/; code: what holds chord/")
    kind: Literal["file", "folder"]
    bytes: int
    sha256: str = Field(description="of the file's bytes; for a folder the Merkle root over its entries")


class Code(Part):
    """The code that this job can reach; see `chord.provenance.digest`."""

    digest: str
    uses: dict[str, tuple[str, ...]] = Field(description="of each plug point, the entries that the job uses")
    definitions: dict[str, str] = Field(description="of each module, names and contents of what is reached; to tell")


class Git(Part):
    """State of the project's checkout when the verb began; `why` says why there is no commit."""

    commit: str | None
    dirty: bool | None
    diff_sha256: str | None
    untracked: int | None
    why: str | None


class Attempt(Part):
    """Which line of the study's ledger this is; no line where the verb ran outside of a study."""

    id: str
    ledger_line_sha256: str | None
    host: str
    pid: int
    job: str | None = Field(description="Slurm job id")


class Installed(Part):
    """Python and packages; `all_sha256` is over name and version of everything installed."""

    python: str
    packages: dict[str, str]
    all_sha256: str
    pinned: dict[str, str] = Field(description="what envs/STEP.txt pins for this step, version by package")
    pins: dict[str, str] = Field(description="SHA-256 of each envs/*.txt")
