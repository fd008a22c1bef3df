"""What the Llama community licences ask of a model that is made from Llama, or from what Llama wrote.

Read off sections 1.b.i, iii and v of the agreements of Llama 3, 3.1, 3.2, 3.3 and 4; nobody's legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NAMED = re.compile(r"(?<![a-z])llama[-_. ]?(3(?:\.[123])?|4)(?![\d.]*[\db])", re.IGNORECASE)
"""A Llama of these licences in the name of a model or of a licence; `open_llama_3b` and `Llama-30b` are none."""


@dataclass(frozen=True)
class Llama:
    """One of the licences."""

    version: str

    @property
    def prefix(self) -> str:
        """What the name of a model made from it must begin with."""
        return "Llama 3" if self.version == "3" else "Llama"

    @property
    def badge(self) -> str:
        """What must be displayed prominently."""
        return "Built with Meta Llama 3" if self.version == "3" else "Built with Llama"

    @property
    def notice(self) -> str:
        """The text of the file NOTICE that goes with every copy."""
        owner = "Meta " if self.version == "3" else ""
        return (
            f"{owner}Llama {self.version} is licensed under the {owner}Llama {self.version} Community License, "
            "Copyright © Meta Platforms, Inc. All Rights Reserved."
        )

    @property
    def agreement(self) -> str:
        """Where the licence is; a copy of it must go with the model."""
        return f"https://www.llama.com/llama{self.version.replace('.', '_')}/license"

    @property
    def policy(self) -> str:
        """Where the acceptable use policy is, which is part of the licence."""
        return f"https://www.llama.com/llama{self.version.replace('.', '_')}/use-policy"

    def allows(self, name: str) -> bool:
        """Whether a model's name begins as it must; between `Llama` and `3` a hub name has a dash."""
        pattern = r"llama[-_. ]?3(?!\.?\d)" if self.version == "3" else r"llama"
        return bool(re.match(pattern, name, re.IGNORECASE))


def llama(model: str, licence: str) -> Llama | None:
    """The licence of a model, by the licence that was read or by the model's name; None for any other model."""
    found = NAMED.search(licence) or NAMED.search(model.rsplit("/", 1)[-1])
    return Llama(found[1]) if found else None


def naming(base: Llama | None, writers: Iterable[Llama]) -> list[Llama]:
    """The licences that bind the name: the base's, and from 3.1 on those of models whose output was trained on."""
    later = [writer for writer in writers if writer.version != "3"]
    return list(dict.fromkeys([*([base] if base else []), *later]))


def forbidden(base: Llama | None, writers: Iterable[Llama]) -> bool:
    """Whether output of Llama 3 improved a model that is no Llama, which section 1.b.v of its licence excludes."""
    return base is None and any(writer.version == "3" for writer in writers)
