"""The JSON-LD graph of a crate, entity by entity, through the `rocrate` library. Knows no study.

Nothing in it depends on the clock, on chance or on the machine: equal entities in equal order give equal bytes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from rocrate.model import ContextEntity, Dataset, File
from rocrate.rocrate import ROCrate

from chord.provenance.environment import scrubbed

METADATA = "ro-crate-metadata.json"
WORKFLOW_PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    WORKFLOW_PROFILE: ("Workflow RO-Crate", "1.0"),
}
# Terms of the run profiles (sha256 and environment among them), and one that RO-Crate 1.1 lacks.
_CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
_TERMS = {"buildInstructions": "https://codemeta.github.io/terms/buildInstructions"}
# The folders of an absolute path with two parts or more; not a slash in a tag, a fraction, an address or a pattern.
_PLACE = re.compile(r"(?<![\w.:/~)\]])~?/(?:[^\s/'\",:;<>()\[\]]+/)+")

Ref = dict[str, str]


def empty_crate(published: str) -> ROCrate:
    """A crate of RO-Crate 1.1 that claims the profile Provenance Run Crate 0.5; `published` is an ISO 8601 time."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_CONTEXT)
    crate.metadata.extra_terms.update(_TERMS)
    crate.metadata["conformsTo"] = [ref(crate.metadata.profile), ref(WORKFLOW_PROFILE)]
    crate.root_dataset["datePublished"] = published
    for address, (name, version) in PROFILES.items():
        add(crate, address, "CreativeWork", {"name": name, "version": version})
    crate.root_dataset["conformsTo"] = [ref(address) for address in PROFILES]
    return crate


def ref(identifier: str) -> Ref:
    """What an entity is called by in other entities."""
    return {"@id": identifier}


def add(crate: ROCrate, identifier: str, kind: str | list[str], about: Mapping[str, Any]) -> Ref:
    """Adds something that is no file; a name of our own starts with `#`. What is None or empty is left out."""
    crate.add(ContextEntity(crate, identifier, {"@type": kind, **_told(about)}))
    return ref(identifier)


def add_file(crate: ROCrate, path: str, about: Mapping[str, Any], kind: str | list[str] = "File") -> Ref:
    """Adds a file of the crate and a part of its root; `path` is relative to the crate."""
    added = File(crate, dest_path=path, properties={"@type": kind, **_told(about)})
    crate.add(added)
    return ref(added.id)


def add_folder(crate: ROCrate, path: str, about: Mapping[str, Any]) -> Ref:
    """Adds a folder of the crate and a part of its root; `path` is relative to the crate."""
    added = Dataset(crate, dest_path=path, properties=_told(about))
    crate.add(added)
    return ref(added.id)


def say(crate: ROCrate, identifier: str, name: str, value: Any) -> None:
    """Gives an entity that was added before one more property."""
    entity = crate.dereference(identifier)
    if entity is None:
        raise KeyError(f"found no entity {identifier}, expected it to be added first")
    entity[name] = value


def as_text(crate: ROCrate) -> str:
    """The metadata file."""
    return json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def without_places(text: str) -> str:
    """`text` without secrets, and with the last part alone of absolute paths: where a machine keeps its files."""
    return _PLACE.sub("", scrubbed(text).replace("file://", ""))


def _told(about: Mapping[str, Any]) -> dict[str, Any]:
    """RO-Crate 1.1 wants one value, not a list of one."""
    lists = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in about.items()}
    return {key: value for key, value in lists.items() if value not in (None, [], "")}
