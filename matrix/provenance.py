"""Where a result came from: seeds, prompt hashes, file fingerprints, git state, packages, machine.

Randomness is keyed, never global: `derive_seed(seed, "agent", agent_id)` gives every purpose its own number.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed that depends on all parts and on nothing else (engines take signed 32-bit seeds)."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content; a large file that has not changed is not read twice."""
    stat = path.stat()
    # Small files are cheap, and two writes of one may share a time stamp (the clock ticks every few milliseconds).
    large = stat.st_size > 2**24
    return (_hash_once if large else _hash_once.__wrapped__)(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash_once(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_fingerprint(path: Path | str) -> str:
    """Content hash of a file, or of all files of a folder with their names.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    path = Path(path)
    if path.is_dir():
        parts = [f"{p.relative_to(path)}:{sha256_file(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return sha256_file(path)


@lru_cache
def prompt_hashes(package: str) -> dict[str, str]:
    """Prompt file name -> first 12 hex digits of its sha256, for the `prompts` folder of a package."""
    folder = files(package) / "prompts"
    names = sorted(p.name for p in folder.iterdir() if p.name.endswith(".jinja"))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12] for name in names}


def environment() -> dict[str, Any]:
    """Python, packages, machine and git state of this process, as recorded in every manifest and cell."""
    return {**_machine(), **git_state()}


@lru_cache
def _machine() -> dict[str, Any]:
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpus(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _gpus() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


@lru_cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the source tree; empty for an installed wheel."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return {}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "changes": git("diff", "HEAD") or None}
