"""What a crate says about whom and what: authors, licence, paper, from CITATION.cff. Knows no study."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rocrate.rocrate import ROCrate

from chord.provenance.crate_graph import Ref, add, ref
from chord.provenance.files import UserError

CITATION = "CITATION.cff"


class About(NamedTuple):
    """Who made the study, as entities of the crate, and what the project says of itself."""

    agent: Ref
    title: str
    version: str
    address: str | Ref


def add_about(crate: ROCrate, project: Path, copied: str) -> About:
    """Adds authors, licence and paper; `copied` is where the crate keeps the project's files.

    The organisation of contributors is the agent of every action: the study does not record which person ran a job.
    """
    cited = read_citation(project)
    address: str | Ref = cited.get("repository-code") or cited.get("url") or ref(f"{copied}/{CITATION}")
    people = [author for author in cited["authors"] if "name" not in author]
    teams = [author["name"] for author in cited["authors"] if "name" in author]
    team = {"name": teams[0] if teams else f"The contributors of {cited['title']}", "url": address}
    agent = add(crate, "#contributors", "Organization", team)
    root = crate.root_dataset
    root["author"] = [_person(crate, person, agent) for person in people] or agent
    root["publisher"] = agent
    root["license"] = _licence(crate, cited["license"])
    papers = [_paper(crate, work) for work in cited.get("references", []) if _address(work)]
    if papers:
        root["citation"] = papers if len(papers) > 1 else papers[0]
    return About(agent, cited["title"], str(cited.get("version", "")), address)


def read_citation(project: Path) -> dict[str, Any]:
    """CITATION.cff, which must name title, licence and authors."""
    path = project / CITATION
    expected = "expected a citation file with title, license and authors, which the crate names"
    try:
        cited = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, {expected}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: found {' '.join(str(error).split())}, {expected}") from None
    lacking = {"title", "license", "authors"} - (cited.keys() if isinstance(cited, dict) else set())
    if lacking:
        raise UserError(f"{path}: found no {', '.join(sorted(lacking))}, {expected}")
    return cited


def _person(crate: ROCrate, person: Mapping[str, Any], team: Ref) -> Ref:
    name = " ".join(str(person[key]) for key in ("given-names", "family-names") if key in person)
    place = person.get("affiliation")
    affiliation = add(crate, f"#{_slug(place)}", "Organization", {"name": place, "url": place}) if place else team
    identifier = person.get("orcid") or f"#{_slug(name)}"
    return add(crate, identifier, "Person", {"name": name, "affiliation": affiliation})


def _licence(crate: ROCrate, name: str) -> Ref:
    about = {"name": name, "identifier": name, "description": f"SPDX licence {name}; its text is in crate/LICENSE"}
    return add(crate, f"https://spdx.org/licenses/{name}", "CreativeWork", about)


def _paper(crate: ROCrate, work: Mapping[str, Any]) -> Ref:
    """Authors as one text: RO-Crate wants an affiliation of a person, and CITATION.cff does not know theirs."""
    names = [f"{one.get('given-names', '')} {one.get('family-names', '')}".strip() for one in work.get("authors", [])]
    about = {"name": work.get("title"), "author": ", ".join(names), "datePublished": str(work.get("year", ""))}
    return add(crate, _address(work), "ScholarlyArticle", about)


def _address(work: Mapping[str, Any]) -> str:
    named = [str(one.get("value", "")) for one in work.get("identifiers", [])]
    found = [value.partition(":")[2] for value in named if value.startswith("arXiv:")]
    return f"https://arxiv.org/abs/{found[0]}" if found else str(work.get("url", ""))


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
