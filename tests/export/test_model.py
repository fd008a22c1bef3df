"""A trained model is exported whole, with a card of how it came to be, and under a name that its licence allows."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_store import Small, model

from matrix.engines.base import ModelConfig
from matrix.export.main import main
from matrix.export.model import find_model
from matrix.export.source import ExportError
from matrix.export.weights import export_model

LLAMA = ModelConfig(model="meta-llama/Meta-Llama-3-8B")
SCORES = {
    "benchmarks": [
        {
            "benchmark": "alpaca_eval2", "model": "m", "reference": "import-0123456789ab", "judge": "someone/judge@1",
            "metrics": {"win_rate": 52.51, "length_controlled_win_rate": None}, "interval": {"win_rate": [41.0, 64.0]},
            "notice": "demo judge: not comparable",
        }
    ]
}  # fmt: skip


def stages(small: Small) -> dict:
    return {"base": small.base, "rows": small.rows, "kept": small.kept, "sft": small.sft, "tuned": small.tuned}


@pytest.fixture(scope="module")
def made(small, tmp_path_factory) -> Path:
    """The model of an evaluated cell."""
    cell = small.grown("evaluated", scores=SCORES, **stages(small))
    folder = tmp_path_factory.mktemp("models") / "baker"
    assert not export_model(find_model(str(cell), Path("none")), folder, "baker")
    return folder


@pytest.fixture(scope="module")
def text(made) -> str:
    return (made / "README.md").read_text(encoding="utf-8")


def exported(small: Small, folder: Path, name: str) -> tuple[list[str], str]:
    todo = export_model(find_model(small.sft.name, small.outputs / "store"), folder, name)
    return todo, (folder / "README.md").read_text(encoding="utf-8")


def test_weights_card_and_charts_are_there(made, small):
    files = {file.name for file in made.iterdir()}
    assert files == {
        "config.json", "model.safetensors", "README.md", "export.json", "training-sft.png", "training-dpo.png"
    }  # fmt: skip
    assert (made / "model.safetensors").read_bytes() == b"\1\2\3\4"
    told = json.loads((made / "export.json").read_text())
    assert told["results"][small.tuned.name] == small.tuned.key
    assert told["files"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in made.iterdir()
        if file.name != "export.json"
    }


def test_the_header_is_the_hubs(text):
    told = yaml.safe_load(text.split("---\n")[1])
    assert told == {
        "license": "unknown", "base_model": "someone/base", "base_model_relation": "finetune",
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["matrix-gen", "sft", "dpo"],
    }  # fmt: skip


def test_base_data_recipe_and_losses(text, small):
    assert "someone/base@def, fine-tuned, all weights" in text
    assert f"| sft | `{small.sft.name}` | 6 of `{small.kept.name}` | 1 | 2 | 4,101 | 2.5 → 1.5 | 1.75, step 2 |" in text
    assert f"| dpo | `{small.tuned.name}` | 4 of `{small.kept_pairs.name}`" in text
    assert "- learning_rate: 2e-05" in text
    assert "- learning_rate: 5e-07" in text
    assert "fine-tuned, all weights" in text
    assert f"- key: `{small.tuned.key}`" in text
    assert "- warned beforehand: only 2 optimizer steps" in text
    assert f"| `{small.kept.name}` | 6 |" in text
    assert f"Filters of `{small.kept.name}`: length 8 → 6." in text
    assert "| someone/writer@abc | llm of simulate, generate, prefer | unknown: check |" in text


def test_scores_stand_with_their_judge(text):
    assert "Judge: someone/judge@1. Reference: someone/base, untuned. **demo judge: not comparable**" in text
    assert "| win rate | 52.51 | 41 to 64 |" in text
    assert "length controlled" not in text


def test_it_can_be_made_again(text):
    assert (
        "matrix experiment=bread seed=3 model.model=m.gguf\nmatrix-export outputs/grids/bread/evaluated --to FOLDER"
        in text
    )
    assert "@inproceedings{tang2025matrix," in text


def test_strangers_do_not_read_addresses_and_folders(made):
    for file in made.iterdir():
        content = file.read_bytes()
        assert not [secret for secret in (b"10.1.2.3", b"SECRET", b"/home/me") if secret in content], file


def test_a_result_has_no_scores_and_a_cell_that_stopped_early_its_first_model(small, tmp_path):
    _, text = exported(small, tmp_path / "a", "a")
    assert "No scores: " in text
    assert "training-dpo" not in text
    early = {alias: result for alias, result in stages(small).items() if alias != "tuned"}
    assert find_model(str(small.grown("early-model", **early)), Path("none")).result.name == small.sft.name


def test_same_model_same_bytes(small, tmp_path):
    for name in ("a", "b"):
        exported(small, tmp_path / name, "bread")
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]


def test_what_is_no_model_says_what_is(small, tmp_path):
    with pytest.raises(ExportError, match=rf"no trained model. Trained models: .*{small.sft.name}"):
        find_model(small.kept.name, small.outputs / "store")
    with pytest.raises(ExportError, match="has no trained model in the store: its status is done, it made rows"):
        find_model(str(small.grown("untrained", rows=small.rows)), Path("none"))


def test_weights_that_were_changed_are_refused_and_nothing_is_left(tmp_path):
    small = Small(tmp_path / "outputs")
    (small.sft.path / "hf" / "model.safetensors").write_bytes(b"\1\2\3\5")
    with pytest.raises(ExportError, match=r"hf/model.safetensors is not what was published"):
        exported(small, tmp_path / "model", "bread")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_a_model_made_from_llama_3_is_called_so(tmp_path, capsys):
    small = Small(tmp_path / "outputs", based_on=LLAMA)
    words = [small.sft.name, "--store", str(tmp_path / "outputs" / "store"), "--to"]
    assert main([*words, str(tmp_path / "bread")]) == 2
    assert "name that begins with Llama 3. bread does not; name the folder" in capsys.readouterr().err
    assert not (tmp_path / "bread").exists()

    assert main([*words, str(tmp_path / "bread"), "--push", "me/bread"]) == 2
    assert "e.g. Llama-3-bread" in capsys.readouterr().err

    assert main([*words, str(tmp_path / "Llama-3-bread")]) == 0
    assert "To do: a copy of the licence must go with the model: save https://" in capsys.readouterr().out
    text = (tmp_path / "Llama-3-bread" / "README.md").read_text()
    assert "**Built with Meta Llama 3**" in text
    assert "Meta Llama 3 is licensed under the Meta Llama 3 Community License" in text
    assert (tmp_path / "Llama-3-bread" / "NOTICE").read_text().startswith("Meta Llama 3 is licensed under")


def test_the_licence_of_a_base_that_lies_here_goes_with_the_model(tmp_path):
    base = tmp_path / "Meta-Llama-3-8B"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: llama3\n---\n")
    (base / "LICENSE").write_text("META LLAMA 3 COMMUNITY LICENSE AGREEMENT")
    todo, text = exported(
        Small(tmp_path / "outputs", based_on=ModelConfig(model=str(base))), tmp_path / "out", "Llama-3-bread"
    )
    assert not todo
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "llama3"
    assert (tmp_path / "out" / "LICENSE").read_text() == "META LLAMA 3 COMMUNITY LICENSE AGREEMENT"
    assert str(tmp_path) not in text


def test_what_llama_wrote_binds_too(tmp_path):
    later = Small(tmp_path / "later", writer=replace(model(), model="meta-llama/Llama-3.1-8B-Instruct"))
    with pytest.raises(ExportError, match="name that begins with Llama. bread does not"):
        exported(later, tmp_path / "out", "bread")
    first = Small(tmp_path / "first", writer=replace(model(), model="meta-llama/Meta-Llama-3-8B-Instruct"))
    todo, text = exported(first, tmp_path / "out", "bread")
    assert "excludes improving other models" in todo[0]
    assert f"**To do before it is handed on**: {todo[0]}." in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name one folder: FOLDER for rows, or --to FOLDER for a trained model"),
        (["a", "--to", "b"], "name one folder"),
        (["--to", "b", "--format", "trl"], "--format is for rows"),
    ],
)
def test_arguments_are_checked_first(small, capsys, words, told):
    with pytest.raises(SystemExit):
        main([small.sft.name, *words])
    assert told in capsys.readouterr().err
