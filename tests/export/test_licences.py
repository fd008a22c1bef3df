"""Licences are read where a model says its own, and never guessed."""

import json

import gguf
import pytest

from matrix.export.licences import UNKNOWN, licence

CARD = "---\nlicense: {}\nlicense_name: house-rules\n---\n# A model\n"


def gguf_file(path, **strings):
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in strings.items():
        writer.add_string(f"general.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_says_it(tmp_path):
    path = gguf_file(tmp_path / "a.gguf", license="apache-2.0")
    assert licence(str(path)) == ("apache-2.0", "general.license of a.gguf")
    assert licence(str(gguf_file(tmp_path / "b.gguf"))) == UNKNOWN


@pytest.mark.parametrize(("told", "read"), [("mit", "mit"), ("other", "house-rules")])
def test_a_model_card_says_it(tmp_path, told, read):
    (tmp_path / "README.md").write_text(CARD.format(told))
    assert licence(str(tmp_path)) == (read, "model card README.md")


def test_a_card_that_says_nothing(tmp_path):
    (tmp_path / "README.md").write_text("# A model\n")
    assert licence(str(tmp_path)) == UNKNOWN
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert licence(str(tmp_path)) == UNKNOWN


def test_a_checkpoint_that_stands_for_another_model(tmp_path):
    path = gguf_file(tmp_path / "a.gguf", license="mit")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "reference.json").write_text(json.dumps({"model": str(path), "revision": None}))
    assert licence(str(tmp_path / "checkpoint")).name == "mit"


def test_a_package(tmp_path, monkeypatch):
    """Only its metadata says it; the version is the one that the config asks for."""
    (tmp_path / "shelf_of_models" / "weights").mkdir(parents=True)
    information = tmp_path / "shelf_of_models-1.2.dist-info"
    information.mkdir()
    information.joinpath("METADATA").write_text(
        "Metadata-Version: 2.4\nName: shelf-of-models\nVersion: 1.2\nLicense: MIT\n"
    )
    information.joinpath("RECORD").write_text("shelf_of_models/weights/w,,\nshelf_of_models/__init__.py,,\n")
    (tmp_path / "shelf_of_models" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    model = "package:shelf_of_models/weights"
    assert licence(model, "1.2") == ("MIT", "metadata of the package shelf-of-models 1.2")
    assert licence(model, "1.3") == UNKNOWN
    assert licence("package:nobody_has_this/file") == UNKNOWN


@pytest.mark.parametrize("model", ["nobody/has-this", "gpt-4-1106-preview", "A model with spaces"])
def test_what_is_not_at_hand_is_not_guessed(model):
    assert licence(model) == UNKNOWN
