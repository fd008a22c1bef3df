"""What vLLM is started with; the engine itself needs a GPU."""

import pytest

from matrix.engines.base import EngineError, EngineName, ModelConfig
from matrix.engines.vllm import engine_arguments

CONFIG = ModelConfig(
    model="org/model", revision="r1", engine=EngineName.vllm, max_context=4096, concurrency=32, tensor_parallel_size=2
)

KNOWN = {
    *("model", "revision", "tokenizer_revision", "trust_remote_code", "dtype", "max_model_len", "max_num_seqs"),
    *("gpu_memory_utilization", "tensor_parallel_size", "enable_prefix_caching", "disable_log_stats", "seed"),
}


def test_arguments() -> None:
    arguments = engine_arguments(CONFIG, KNOWN, "0.32.0")
    assert arguments["model"] == "org/model"
    assert arguments["revision"] == arguments["tokenizer_revision"] == "r1"
    assert (arguments["max_model_len"], arguments["max_num_seqs"], arguments["tensor_parallel_size"]) == (4096, 32, 2)
    assert arguments["enable_prefix_caching"] is True
    assert arguments["trust_remote_code"] is False


def test_an_argument_that_the_installed_version_lacks_is_named() -> None:
    with pytest.raises(EngineError, match=r"vLLM 0\.99\.0 has no engine argument max_num_seqs"):
        engine_arguments(CONFIG, KNOWN - {"max_num_seqs"}, "0.99.0")


def test_installed_version_knows_all_arguments() -> None:
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed (pip install 'matrix-gen[vllm]', needs CUDA)")
    import dataclasses

    engine_arguments(CONFIG, {f.name for f in dataclasses.fields(vllm.AsyncEngineArgs)}, vllm.__version__)
