"""Pushing, against a hub on a local port, in a process of its own: the hub's address is read once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import serve

ROOT = Path(__file__).parents[2]
CODE = "import sys; from matrix.export.main import main; sys.exit(main())"


@pytest.fixture
def hub():
    with serve() as hub:
        yield hub


@pytest.fixture
def pushed(small, tmp_path):
    def run(url, *more, token="hf_test", what=None):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        environment |= {"HF_TOKEN": token} if token else {}
        words = [*(what or [str(small.kept.path), str(tmp_path / "data")]), "--push", "me/bread", *more]
        return subprocess.run(
            [sys.executable, "-c", CODE, *words], env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def test_a_push_is_private_unless_asked_otherwise(hub, pushed, tmp_path):
    done = pushed(hub.url)
    assert done.returncode == 0, done.stderr
    assert f"Pushed: {hub.url}/datasets/me/bread" in done.stdout
    assert hub.private == {"me/bread": True}
    assert hub.tokens == {"Bearer hf_test"}
    folder = tmp_path / "data"
    assert hub.files == {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    done = pushed(hub.url, "--overwrite", "--public")
    assert done.returncode == 1
    assert "me/bread exists and is private. Leave out --public, or name another repository" in done.stderr


def test_a_model_is_pushed_as_a_model(hub, pushed, small, tmp_path):
    done = pushed(hub.url, what=[str(small.sft.path), "--to", str(tmp_path / "model")])
    assert done.returncode == 0, done.stderr
    assert f"Pushed: {hub.url}/me/bread" in done.stdout
    assert (hub.kinds, hub.private) == ({"me/bread": "model"}, {"me/bread": True})
    folder = tmp_path / "model"
    assert hub.files == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert hub.files["README.md"].decode().partition("---\n# ")[2].startswith("bread\n")


def test_public_is_public_and_nothing_private_goes_there(hub, pushed):
    done = pushed(hub.url, "--public")
    assert done.returncode == 0, done.stderr
    assert hub.private == {"me/bread": False}
    hub.files.clear()
    done = pushed(hub.url, "--overwrite")
    assert done.returncode == 1
    assert "me/bread exists and is public. Add --public, or name another repository" in done.stderr
    assert not hub.files


def test_what_the_hub_refuses_is_written_all_the_same(hub, pushed, tmp_path):
    hub.refuses = True
    done = pushed(hub.url)
    assert done.returncode == 1
    assert "is written; pushing it failed" in done.stderr
    assert "403" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "data" / "README.md").exists()


def test_without_a_token_nobody_is_asked(hub, pushed, tmp_path):
    done = pushed(hub.url, token="")
    assert done.returncode == 1
    assert "there is no token for the hub. Set HF_TOKEN or type: hf auth login" in done.stderr
    assert not hub.tokens
    assert (tmp_path / "data" / "README.md").exists()


def test_without_a_network(pushed, tmp_path):
    with serve() as gone:
        pass
    done = pushed(gone.url)
    assert done.returncode == 1
    assert "pushing it failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "data" / "README.md").exists()
