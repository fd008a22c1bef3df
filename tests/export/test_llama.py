"""Which names are Llama's, and what its licences ask of a model made from it."""

import pytest

from matrix.export.llama import Llama, forbidden, llama, naming


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("meta-llama/Meta-Llama-3-8B", "3"),
        ("someone/llama3-tuned", "3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "3.1"),
        ("meta-llama/Llama-3.3-70B-Instruct", "3.3"),
        ("meta-llama/Llama-4-Scout-17B-16E", "4"),
        ("Meta-Llama-3-8B.Q4_1.gguf", "3"),
    ],
)
def test_a_llama_is_known_by_its_name(model, version):
    assert llama(model, "unknown: check") == Llama(version)


@pytest.mark.parametrize(
    "model",
    [
        "openlm-research/open_llama_3b",
        "huggyllama/llama-30b",
        "TinyLlama-1.1B",
        "Llama-2-7b",
        "SmolLM3",
        "llama-3/mistral",
    ],
)
def test_others_are_no_llama(model):
    assert llama(model, "apache-2.0") is None


def test_a_llama_of_another_name_is_known_by_its_licence():
    assert llama("someone/my-model", "llama3.2") == Llama("3.2")
    assert llama("someone/my-model", "llama2") is None


@pytest.mark.parametrize("name", ["Llama-3-matrix", "llama3_matrix", "Llama 3 matrix", "Llama-3-8B-matrix"])
def test_names_that_llama_3_allows(name):
    assert Llama("3").allows(name)
    assert Llama("3.1").allows(name)


@pytest.mark.parametrize(
    "name", ["matrix", "Meta-Llama-3-matrix", "Llama-3.1-matrix", "Llama-matrix", "matrix-Llama-3"]
)
def test_names_that_llama_3_does_not_allow(name):
    assert not Llama("3").allows(name)


def test_from_3_1_on_output_binds_the_name_and_before_it_may_not_improve_others():
    three, later = Llama("3"), Llama("3.1")
    assert naming(None, [three, later]) == [later]
    assert naming(three, [three]) == [three]
    assert forbidden(None, [three])
    assert not forbidden(three, [three])
    assert not forbidden(None, [later])


def test_the_words_of_the_licences():
    assert Llama("3").notice == (
        "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved."
    )
    assert Llama("3.1").notice.startswith("Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright ©")
    assert (Llama("3").badge, Llama("3.1").badge) == ("Built with Meta Llama 3", "Built with Llama")
    assert Llama("3.1").policy == "https://www.llama.com/llama3_1/use-policy"
