"""Rows of which only the id and the answers matter, and what is known of them."""

from matrix.records import Conversation, Likelihood, Message, Origin, PreferencePair

ORIGIN = Origin(stage="generate-test")


def conversation(name: str, answer: str = "Yes, it is.") -> Conversation:
    messages = [Message(role="user", content=f"Is it {name}?"), Message(role="assistant", content=answer)]
    return Conversation(id=name, messages=messages, origin=ORIGIN)


def pair(name: str, chosen: str = "Yes, it is.", rejected: str = "No.") -> PreferencePair:
    prompt = [Message(role="user", content=f"Is it {name}?")]
    return PreferencePair(id=name, prompt=prompt, chosen=chosen, rejected=rejected, origin=ORIGIN)


def likelihood(row: str, part: str, logp: float, tokens: int = 10) -> Likelihood:
    return Likelihood(row=row, part=part, tokens=tokens, logp=logp, logp_alone=2 * logp)
