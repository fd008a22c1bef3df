import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.provenance import derive_seed, environment, file_fingerprint, git_state, prompt_hashes, sha256_file


class TestDeriveSeed:
    @pytest.mark.parametrize(
        ("parts", "seed"),
        [((), 1910006305), ((0,), 804681139), ((0, "simulate"), 183562483), ((7, "agent", "a0001"), 963954792)],
    )
    def test_the_numbers_that_stored_results_were_made_with(self, parts, seed):
        assert derive_seed(*parts) == seed

    @given(st.lists(st.integers() | st.text(), max_size=4))
    def test_fits_a_signed_32_bit_integer(self, parts):
        assert 0 <= derive_seed(*parts) < 2**31

    def test_parts_do_not_run_into_each_other(self):
        assert len({derive_seed("ab", "c"), derive_seed("a", "bc"), derive_seed("abc"), derive_seed("c", "ab")}) == 4


class TestFingerprint:
    def test_a_file_is_its_content(self, tmp_path):
        (tmp_path / "a").write_text("x")
        (tmp_path / "b").write_text("x")
        assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b") == sha256_file(tmp_path / "a")
        assert file_fingerprint(tmp_path / "a") == hashlib.sha256(b"x").hexdigest()

    def test_a_folder_is_its_files_with_their_names(self, tmp_path):
        for folder in ("one", "two"):
            (tmp_path / folder / "deep").mkdir(parents=True)
            (tmp_path / folder / "deep" / "a").write_text("x")
        one, two = tmp_path / "one", tmp_path / "two"
        assert file_fingerprint(one) == file_fingerprint(two)
        (two / "deep" / "a").rename(two / "deep" / "b")
        assert file_fingerprint(one) != file_fingerprint(two)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            file_fingerprint(tmp_path / "nowhere")


def test_prompt_hashes_are_of_the_files_content():
    from importlib.resources import files

    hashes = prompt_hashes("matrix.simulation")
    assert set(hashes) >= {"act.jinja", "react.jinja", "plan.jinja", "summarise.jinja"}
    content = (files("matrix.simulation") / "prompts" / "act.jinja").read_bytes()
    assert hashes["act.jinja"] == hashlib.sha256(content).hexdigest()[:12]


def test_environment_tells_where_a_result_was_made():
    told = environment()
    assert told.keys() >= {"python", "platform", "cpus", "gpus", "packages"}
    assert told["packages"]["msgspec"]
    assert told["cpus"] >= 1
    assert json.loads(json.dumps(told)) == told
    if "commit" in git_state():
        assert len(told["commit"]) == 40
