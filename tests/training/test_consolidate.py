"""Any checkpoint of an unfinished training becomes the folder that its weights would have been exported to."""

import shutil

import pytest
import torch
from sharded import CASES, sharded
from transformers import AutoModelForCausalLM, AutoTokenizer

from matrix.training.consolidate import consolidate, main
from matrix.training.recipe import TrainingError

LAST = "step-00000002"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(base, conversations):
    return sharded(base.path, conversations.path)


@pytest.fixture(scope="module")
def expected(runs, tmp_path_factory):
    """Weights after two steps, by whether they are of adapters, from the plainest checkpoints."""
    found = {}
    for case in ("ddp", "ddp_lora"):
        out = tmp_path_factory.mktemp(case) / "hf"
        consolidate(runs / case / "checkpoints" / LAST, out)
        found[case.endswith("_lora")] = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_checkpoint(case, runs, expected, base, tmp_path):
    consolidate(runs / case / "checkpoints" / LAST, tmp_path / "hf")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).state_dict()
    start = AutoModelForCausalLM.from_pretrained(base.path / "hf", dtype=torch.float32).state_dict()
    same = expected[case.endswith("_lora")]
    assert read.keys() == start.keys()
    moved = max((read[name] - start[name]).abs().max() for name in read)
    assert moved > 5e-4  # two steps of a rate of 1e-3
    for name in read:
        torch.testing.assert_close(read[name], same[name], rtol=0, atol=0.01)
        assert (read[name] - same[name]).abs().mean() < 1e-4


def test_a_checkpoint_is_between_the_start_and_the_end(runs, expected):
    end = torch.load(runs / "ddp" / "weights.pt")
    name = "model.layers.0.mlp.up_proj.weight"
    assert 1e-5 < (end[name] - expected[False][name]).abs().mean() < 1e-3


def test_the_command_line(runs, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("sys.argv", ["consolidate", str(runs / "ddp" / "checkpoints" / LAST), str(tmp_path / "hf")])
    main()
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template == tokenizer.chat_template
    with pytest.raises(SystemExit, match="is there already"):
        main()
    monkeypatch.setattr("sys.argv", ["consolidate"])
    with pytest.raises(SystemExit, match="usage"):
        main()


def test_what_is_no_checkpoint_is_refused(runs, tmp_path):
    checkpoints = runs / "zero2" / "checkpoints"
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="is there already"):
        consolidate(checkpoints / LAST, tmp_path)
    with pytest.raises(TrainingError, match="does not exist"):
        consolidate(checkpoints / "step-00000009", out)
    work = tmp_path / "work"
    shutil.copytree(runs / "zero2", work)
    whole = work / "checkpoints" / LAST
    shutil.copytree(whole, whole.with_suffix(".partial"))
    with pytest.raises(TrainingError, match="not written to its end"):
        consolidate(whole.with_suffix(".partial"), out)
    next((whole / "checkpoint").glob("*rank_1_*optim_states.pt")).unlink()
    with pytest.raises(TrainingError, match="not whole"):
        consolidate(whole, out)
    (whole / "latest").unlink()
    with pytest.raises(TrainingError, match="latest"):
        consolidate(whole, out)
    (work / "logs" / "stage.json").unlink()
    with pytest.raises(TrainingError, match="stage.json is missing"):
        consolidate(whole, out)
    assert not out.exists()
