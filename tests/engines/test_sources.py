"""Model names become files, or errors that say what to type."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from matrix.engines.base import ModelConfig
from matrix.engines.sources import SourceError, hub_source, openvino_source, read_template, resolve
from matrix.stage import identity


def test_hub_id_is_left_alone() -> None:
    assert resolve("meta-llama/Meta-Llama-3-8B") == "meta-llama/Meta-Llama-3-8B"
    assert hub_source("meta-llama/Meta-Llama-3-8B", "abc") == ("meta-llama/Meta-Llama-3-8B", "abc")


def test_existing_path(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "model.gguf"])
def test_missing_path_is_an_error(name: str) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        resolve(name)


def test_package_file_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_of_mine").mkdir()
    (tmp_path / "weights_of_mine" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "weights_of_mine" / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:weights_of_mine/m.gguf") == tmp_path / "weights_of_mine" / "m.gguf"
    with pytest.raises(SourceError, match=r"holds __init__\.py, .*m\.gguf"):
        resolve("package:weights_of_mine/other.gguf")


def test_package_version_is_checked() -> None:
    version = importlib.metadata.version("pytest")
    assert resolve("package:pytest/__init__.py", version) == Path(pytest.__file__)
    with pytest.raises(SourceError, match=rf"pytest {version} is installed.*pip install pytest==0\.1"):
        resolve("package:pytest/__init__.py", "0.1")


def test_package_not_installed() -> None:
    with pytest.raises(SourceError, match=r"pip install no_such_package==2\.0"):
        resolve("package:no_such_package/x.gguf", "2.0")


def test_checkpoint_folder(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(SourceError, match="engine=vllm"):
        openvino_source(str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert openvino_source(str(tmp_path)) == tmp_path / "model.gguf"
    assert hub_source(str(tmp_path), "main") == (str(tmp_path / "hf"), None)
    with pytest.raises(SourceError, match="engine=openvino"):
        hub_source(str(tmp_path / "model.gguf"))


def test_reference_is_followed(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    for name, reference in (("a", {"model": "org/base", "revision": "r1"}), ("b", {"model": str(base)})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "reference.json").write_text(json.dumps(reference))
    assert hub_source(str(tmp_path / "a")) == ("org/base", "r1")
    assert openvino_source(str(tmp_path / "b")) == base


def test_hub_id_cannot_go_to_openvino() -> None:
    with pytest.raises(SourceError, match="use engine=vllm"):
        openvino_source("org/model")


def test_template(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    assert read_template(None) is None
    assert read_template(str(tmp_path / "t.jinja")) == "{{ messages }}"
    with pytest.raises(SourceError, match="chat_template=nothing"):
        read_template("nothing")


def test_a_local_model_is_its_content(tmp_path: Path) -> None:
    one, two = (ModelConfig(model=str(tmp_path / name)) for name in ("one.gguf", "two.gguf"))
    (tmp_path / "one.gguf").write_bytes(b"weights")
    (tmp_path / "two.gguf").write_bytes(b"weights")
    assert identity(one) == identity(two)
    (tmp_path / "two.gguf").write_bytes(b"others")
    assert identity(one) != identity(two)
    assert identity(ModelConfig(model="a/b"))["model"] == "a/b"
