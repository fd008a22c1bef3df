"""Pushes an exported folder to the Hugging Face hub: only when asked to, and private unless asked otherwise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a repository of the hub holds."""

    dataset = "dataset"
    model = "model"


class PushError(RuntimeError):
    """The hub did not take the folder; says why and what to do."""


def push(folder: Path, repository: str, kind: Kind, public: bool = False) -> str:
    """Upload a folder and return its address.

    The endpoint and the token are those of huggingface_hub (`HF_ENDPOINT`; `HF_TOKEN` or `hf auth login`). Files of the
    same names are replaced, others stay.

    Args:
        folder: what `matrix.export.folder.export` or `matrix.export.model.export_model` wrote.
        repository: `OWNER/NAME`; made if it is not there.
        kind: what the folder is.
        public: let everybody read it.

    Raises:
        PushError: no token, no network, a refusal, or a repository that is there with another visibility.
    """
    from huggingface_hub import HfApi, get_token

    # Of its HTTP client, where a connection that fails is no OSError.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    if not get_token():
        raise PushError("there is no token for the hub. Set HF_TOKEN or type: hf auth login")
    api = HfApi()
    try:
        api.create_repo(repository, repo_type=kind.value, private=not public, exist_ok=True)
        if bool(api.repo_info(repository, repo_type=kind.value).private) is public:
            raise PushError(
                f"{repository} exists and is {'private' if public else 'public'}. "
                f"{'Leave out' if public else 'Add'} --public, or name another repository"
            )
        api.upload_folder(
            repo_id=repository,
            repo_type=kind.value,
            folder_path=folder,
            commit_message=f"Add a {kind} of matrix-export",
        )
    except (HTTPError, OSError, ValueError) as error:
        raise PushError(f"{api.endpoint} did not take {repository}: {type(error).__name__}: {error}") from error
    return f"{api.endpoint}/{'datasets/' if kind is Kind.dataset else ''}{repository}"
