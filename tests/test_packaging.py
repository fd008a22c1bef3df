"""What is shipped: a wheel that works away from the checkout, and pins that fit the ranges."""

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT]
    run(sys.executable, "-m", "pip", *build)
    (built,) = folder.glob("matrix_gen-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_checkout_holds(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    ours = [p for p in (ROOT / "matrix").rglob("*") if p.is_file() and p.suffix not in (".pyc", ".c", ".so")]
    expected = {str(p.relative_to(ROOT)) for p in ours}
    for folder in ("conf", "experiments"):
        expected |= {f"matrix/{p.relative_to(ROOT)}" for p in (ROOT / folder).rglob("*.yaml")}
    assert expected <= inside
    assert {".jinja", ".yaml", ".csv", ".py"} <= {Path(name).suffix for name in inside}
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "outputs"))]


@pytest.mark.slow
def test_the_installed_wheel_finds_its_configs(wheel, tmp_path):
    """Installed without its dependencies into an environment that borrows this one's, and run from an empty folder."""
    target = tmp_path / "venv"
    venv.create(target, with_pip=False, symlinks=True)
    (site,) = target.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    borrowed = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "borrowed.pth").write_text(borrowed + "\n")
    environment = {**os.environ, "PYTHONPATH": ""}
    code = (
        "import matrix, sys; print(matrix.__file__); sys.argv = ['matrix', '--help']; import matrix.cli as c; c.main()"
    )
    done = run(target / "bin/python", "-c", code, cwd=tmp_path, env=environment)
    assert done.stdout.startswith(str(site))
    assert "demo" in done.stdout


def test_every_requirement_is_pinned_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line).groups()
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert pins[name] in requirement.specifier, f"{requirement} is pinned to {pins[name]}"


def test_console_scripts_lead_somewhere():
    for target in PROJECT["scripts"].values():
        module, function = target.split(":")
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert f"\ndef {function}(" in source
