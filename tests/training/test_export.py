"""What is exported is the model that was trained, complete or not there."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from matrix.training.export import export, load_tokenizer, write_hf
from matrix.training.lora import add_adapters
from matrix.training.recipe import LoraConfig, TrainingError

IDS = torch.arange(5, 45)[None]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_reloads_with_equal_logits(tmp_path, model, tokenizer):
    export(tmp_path, model, weights(model), tokenizer, "float32", False, None)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert read.dtype == torch.float32
    assert read(IDS).logits.equal(model(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").chat_template == tokenizer.chat_template


def test_its_own_weights_are_not_looked_at(tmp_path, model, tokenizer):
    trained = weights(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    export(tmp_path, model, trained, tokenizer, "bfloat16", False, None)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    assert all(read[name].equal(tensor.bfloat16()) for name, tensor in trained.items())


def test_tied_weights_may_come_once(tmp_path, model, tokenizer):
    once = weights(model)
    del once["lm_head.weight"]
    write_hf(tmp_path / "hf", model, once, tokenizer, "float32")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(IDS).logits.equal(model(IDS).logits)


def test_adapters_are_merged_and_kept_beside(tmp_path, model, tokenizer):
    from peft import PeftModel

    base = copy.deepcopy(model)
    add_adapters(model, LoraConfig(rank=4), seed=1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.2)
    export(tmp_path, model, weights(model), tokenizer, "float32", False, None)
    assert files(tmp_path / "adapter") == ["adapter_config.json", "adapter_model.safetensors"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(plain).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
    beside = PeftModel.from_pretrained(base, tmp_path / "adapter")
    torch.testing.assert_close(beside(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("written", [None, 0, [0, 1]])
def test_generation_stops_where_the_model_was_taught_to(tmp_path, model, tokenizer, written):
    model.generation_config.eos_token_id = written
    export(tmp_path, model, weights(model), tokenizer, "float32", False, None)
    told = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    of_base = set() if written is None else {written} if written == 0 else set(written)
    assert told["eos_token_id"] == sorted({1, 4} | of_base)  # <|end_of_text|> and <|eot_id|>


def test_a_generation_config_that_transformers_would_not_save_is_mended(tmp_path, model, tokenizer):
    model.generation_config.temperature = 0.6  # without do_sample, as in some well-known models
    export(tmp_path, model, weights(model), tokenizer, "float32", False, None)
    told = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert (told["temperature"], told["do_sample"]) == (0.6, True)
    assert model.generation_config.do_sample is not True


def test_tags_for_training_are_not_in_the_exported_template(tmp_path, base):
    tagged = tmp_path / "tagged.jinja"
    tagged.write_text(
        "{{ bos_token }}\n{%- for m in messages %}{{ m.role }}:\n"
        "    {%- if m.role == 'assistant' %}\n"
        "    {%- generation %} {{ m.content }}<|eot_id|>{% endgeneration %}\n"
        "    {%- else %}{{ m.content }}<|eot_id|>{% endif %}\n{%- endfor %}"
    )
    source = (str(base.path / "hf"), None)
    plain, marked = load_tokenizer(source, str(tagged), False), load_tokenizer(source, None, False)
    marked.chat_template = tagged.read_text()
    assert "generation %}" not in plain.chat_template
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert plain.apply_chat_template(chat, tokenize=False) == marked.apply_chat_template(chat, tokenize=False)


def test_missing_weights_are_an_error_and_nothing_is_written(tmp_path, model, tokenizer):
    half = weights(model)
    del half["model.norm.weight"]
    with pytest.raises(TrainingError, match="model.norm.weight"):
        export(tmp_path, model, half, tokenizer, "float32", False, None)
    assert files(tmp_path) == []


def test_what_broke_off_does_not_look_complete_and_is_written_again(tmp_path, model, tokenizer):
    class Broken:
        """A tokenizer for whose files there is no place."""

        def __getattr__(self, name):
            if name == "save_pretrained":
                raise OSError("No space left on device")
            return getattr(tokenizer, name)

    with pytest.raises(OSError, match="No space"):
        export(tmp_path, model, weights(model), Broken(), "float32", False, None)
    assert not (tmp_path / "hf").exists()
    export(tmp_path, model, weights(model), tokenizer, "float32", True, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "model.gguf"]


def test_large_models_are_cut_into_files_of_five_gigabytes(tmp_path, model, tokenizer, monkeypatch):
    sizes = []
    save = type(model).save_pretrained
    monkeypatch.setattr(
        type(model), "save_pretrained", lambda self, *a, **k: (sizes.append(k["max_shard_size"]), save(self, *a, **k))
    )
    export(tmp_path, model, weights(model), tokenizer, "float32", False, None)
    assert sizes == ["5GB"]
