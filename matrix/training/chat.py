"""Chats as token sequences: the model's chat template, and which tokens are trained.

Only the assistant's turns are targets, their end-of-turn token included and their header excluded; a recipe's legacy
switches change that. A chat is tokenised as one text, with its answers beginning where the prompt before them ends:
what is trained is what the model will meet when it is asked.

What a person writes is never a control token: `<|eot_id|>` inside a message is tokenised as those characters. (Servers
differ: vLLM and `apply_chat_template(tokenize=True)` read it as the token itself.)
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from matrix.records import Message
from matrix.training.recipe import DPOConfig, SFTConfig, TrainConfig, TrainingError


@dataclass(frozen=True)
class Sequence:
    """Token ids and, for each, whether it is a target; the first token never is one."""

    ids: list[int]
    targets: list[bool]


class Renderer:
    """Renders chats with a tokenizer's template; finds out once which special token ends a turn.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        recipe: for its legacy switches; None has none of them set.

    Raises:
        TrainingError: there is no template, it has no assistant's turn or ends it with no special token of the
            tokenizer, or a switch asks for a token that the tokenizer does not have.
    """

    def __init__(self, tokenizer: Any, recipe: TrainConfig | None = None) -> None:
        from tokenizers import AddedToken, Tokenizer

        name = tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise TrainingError(f"{name} has no chat template; set model.chat_template, e.g. chat_template=llama3")
        if not tokenizer.is_fast:
            raise TrainingError(
                f"{name} has no tokenizer.json; save one with `AutoTokenizer` and train from that folder"
            )
        recipe = recipe or SFTConfig()
        self.tokenizer = tokenizer
        self.header_in_completion = recipe.header_in_completion
        self.loss_on_all_tokens = isinstance(recipe, SFTConfig) and recipe.loss_on_all_tokens
        self.bos = self._token("bos_token", isinstance(recipe, DPOConfig) and recipe.bos_in_completion)
        self.eos = self._token("eos_token", recipe.append_eos)

        # Control tokens carry a mark when the template writes them; in a copy of the tokenizer only marked ones are
        # control tokens. In messages their look-alikes are broken up while the template is rendered, for the mark not
        # to be put on them. Nobody can type what was drawn a moment ago.
        self._mark, self._break, self._cut = ("\ufdd0" + secrets.token_hex(8) for _ in range(3))
        special = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        names = "|".join(re.escape(t.content) for t in sorted(special.values(), key=lambda t: -len(t.content)))
        self._special = re.compile(names or "(?!)")
        self._look_alike = re.compile(f"(?=(?:{names or '(?!)'}))(.)", re.DOTALL)
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.post_processor = None  # it may move offsets
        self._backend.encode_special_tokens = True
        marked = [
            AddedToken(
                self._mark + t.content, special=False, normalized=t.normalized, lstrip=t.lstrip, rstrip=t.rstrip,
                single_word=t.single_word,
            )
            for t in special.values()
        ]  # fmt: skip
        self._backend.add_tokens([*marked, AddedToken(self._cut, special=False, normalized=False)])
        added = {token.content: i for i, token in self._backend.get_added_tokens_decoder().items()}
        self._controls = {added[self._mark + t.content]: i for i, t in special.items()}
        self._real: list[int] = [self._controls.get(i, i) for i in range(max(added.values()) + 1)]

        self.end_of_turn = self._probe(name)

    def sequence(self, messages: list[Message]) -> Sequence:
        """A chat as token ids, with the assistant's turns as targets.

        Raises:
            TrainingError: the template rewrites earlier turns, so that what is trained is not what would be met, or it
                refuses the chat.
        """
        return self.sequences([messages])[0]

    def sequences(self, chats: list[list[Message]], last: bool = False) -> list[Sequence]:
        """Many chats at once; with `last` only the last assistant's turn of each is a target."""
        pieces = [self._pieces(chat) for chat in chats]
        texts = ["".join(texts) for texts, _ in pieces]
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            self._assemble(self._split(encoding, texts), controls, last)
            for encoding, (texts, controls) in zip(encodings, pieces, strict=True)
        ]

    def _assemble(self, parts: list[list[int]], controls: list[int], last: bool) -> Sequence:
        ids, targets = parts[0], [False] * len(parts[0])
        for turn, (part, count) in enumerate(zip(parts[1:], controls, strict=True), 1):
            end = [i for i, token in enumerate(part) if token in self._controls][count - 1] + 1
            final = turn == len(controls)
            opening = [self.bos] if final and self.bos is not None else []
            ids = [*ids, *opening, *part]
            trained = final or not last
            targets += [trained] * (len(opening) + end) + [False] * (len(part) - end)
        ids = list(map(self._real.__getitem__, ids))  # one int object a token of the vocabulary, not one a place
        if self.eos is not None and ids[-1] != self.eos:
            ids.append(self.eos)
            targets.append(True)
        if self.loss_on_all_tokens:
            targets = [True] * len(ids)
        targets[0] = False
        return Sequence(ids, targets)

    def _split(self, encoding: Any, texts: list[str], joint: str = "") -> list[list[int]]:
        """Marked token ids of each text of a chat that was tokenised as a whole, with `joint` between them."""
        starts, at = [0], 0
        for text in texts[:-1]:
            at += len(text) + len(joint)
            token = encoding.char_to_token(at)
            if token is None or encoding.token_to_chars(token)[0] != at:
                # A token reaches from the prompt into the answer, but no model is asked with half of its prompt's last
                # token missing. Tokenise again with a joint that no token can cross.
                apart = self._backend.encode(self._cut.join(texts), add_special_tokens=False)
                return self._split(apart, texts, self._cut)
            starts.append(token)
        ids, gap = encoding.ids, int(joint != "")
        ends = [start - gap for start in starts[1:]] + [len(ids)]
        return [ids[start:end] for start, end in zip(starts, ends, strict=True)]

    def _pieces(self, messages: list[Message]) -> tuple[list[str], list[int]]:
        """A chat's marked text cut where completions begin, and how many control tokens belong to each completion."""
        chat = [{"role": m.role, "content": self._plain(m.content)} for m in messages]
        texts, controls, done = [""], [], ""
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self._render(chat[:i], generation=not self.header_in_completion)
            whole = self._render(chat[: i + 1], generation=False)
            if not (prompt.startswith(done) and whole.startswith(prompt)):
                raise TrainingError(
                    "the chat template is not prefix-preserving: a chat's first turns render differently once the next "
                    "turn is there, so its answers cannot be told from its prompts. Set another model.chat_template. "
                    f"The chat begins {messages[0].content[:60]!r}"
                )
            texts[-1] += self._marked(prompt[len(done) :])
            texts.append(self._marked(whole[len(prompt) :]))
            controls.append(texts[-1].count(self._mark))
            done = whole
            if not controls[-1]:
                raise TrainingError(
                    f"the chat template ends an assistant's turn with {whole[-20:]!r}, which has no special token of "
                    f"the tokenizer: a model so trained would not know when to stop. Set another model.chat_template "
                    f"that ends it with one of {sorted(self.tokenizer.all_special_tokens)}"
                )
        if not controls:
            raise TrainingError(f"the chat that begins {messages[0].content[:60]!r} has no assistant's turn")
        if not self._bos_opens_turns and done.count(self.tokenizer.bos_token or self._cut) > 1:
            raise TrainingError("the chat template writes the begin-of-text token twice; mend the template")
        return texts, controls

    def _probe(self, name: str) -> int:
        """Checks the template on a short chat; the id of the token that ends an assistant's turn."""
        question, answer = Message(role="user", content="Is 7 prime?"), Message(role="assistant", content="Seven is.")
        chat = [{"role": m.role, "content": m.content} for m in (question, answer)]
        if answer.content not in self._render(chat, generation=False):
            raise TrainingError(
                f"the chat template of {name} renders nothing for an assistant's turn; set another model.chat_template"
            )
        opening = self._render(chat[:1], True).removeprefix(self._render(chat[:1], False))
        # SmolLM2 begins every turn with its begin-of-text token.
        self._bos_opens_turns = (self.tokenizer.bos_token or self._cut) in opening
        texts, _ = self._pieces([question, answer])
        ids = self._split(self._backend.encode("".join(texts), add_special_tokens=False), texts)[-1]
        return self._real[[i for i in ids if i in self._controls][-1]]

    def _token(self, kind: str, wanted: bool) -> int | None:
        token: int | None = getattr(self.tokenizer, f"{kind}_id")
        if wanted and token is None:
            switch = "append_eos" if kind == "eos_token" else "bos_in_completion"
            raise TrainingError(f"{switch}=true, but {self.tokenizer.name_or_path} has no {kind}; set {switch}=false")
        return token if wanted else None

    def _render(self, chat: list[dict[str, str]], generation: bool) -> str:
        if not chat:
            raise TrainingError(
                "a chat begins with the assistant; its first message must be the user's or the system's"
            )
        try:
            text: str = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
        except TemplateError as error:
            raise TrainingError(
                f"the chat template refuses the chat that begins {chat[0]['content'][:60]!r}: {error}. Set another "
                "model.chat_template, or drop such rows with a filter"
            ) from error
        return text

    def _plain(self, content: str) -> str:
        """A message whose look-alikes of control tokens are broken up."""
        if not self._special.search(content):
            return content
        return self._look_alike.sub(lambda found: found[1] + self._break, content)

    def _marked(self, rendered: str) -> str:
        """Rendered text with the mark on control tokens, and look-alikes put together again."""
        return self._special.sub(lambda found: self._mark + found[0], rendered).replace(self._break, "")
