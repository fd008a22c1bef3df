"""A budget stops a stage cleanly: what was sent is kept, and a larger budget goes on from there."""

import asyncio
from pathlib import Path

import pytest
from chat_server import ChatServer, ask

from matrix.engines.base import BudgetReached, EngineName, ModelConfig, Sampling
from matrix.engines.opening import open_model
from matrix.progress import Progress


async def asked(server: ChatServer, journal: Path, **budget: float) -> Progress:
    """Twelve different calls, four in flight; every one costs 13 tokens."""
    config = ModelConfig(
        model="m", engine=EngineName.openai, endpoints=[server.url], concurrency=4, price_in=2.0, price_out=2.0,
        **budget,  # type: ignore[arg-type]
    )  # fmt: skip
    progress = Progress("t", 1)
    async with open_model(config, journal, progress) as model:
        answers = [asyncio.create_task(model.chat(ask("hello"), Sampling(seed=i))) for i in range(12)]
        ended = await asyncio.gather(*answers, return_exceptions=True)
    if errors := [e for e in ended if isinstance(e, BaseException)]:
        raise errors[0]
    return progress


@pytest.mark.parametrize(("name", "limit"), [("budget_tokens", 30), ("budget_money", 5e-5), ("budget_hours", 5e-6)])
async def test_stops_when_spent_and_goes_on_with_more(
    tmp_path: Path, server: ChatServer, name: str, limit: float
) -> None:
    server.delay = 0.02
    with pytest.raises(BudgetReached, match=rf"^m: {name}=\S+ is (spent|over)\. Everything finished is kept"):
        await asked(server, tmp_path / "j", **{name: limit})
    sent = len(server.bodies)
    assert sent < 12
    assert len((tmp_path / "j").read_text().splitlines()) == sent  # all that was in flight was waited for
    progress = await asked(server, tmp_path / "j")
    assert len(server.bodies) == 12
    assert progress.usage.replayed == sent


def test_a_budget_of_money_needs_prices() -> None:
    with pytest.raises(ValueError, match="budget_money needs price_in and price_out"):
        ModelConfig(model="m", budget_money=3.0)
    with pytest.raises(ValueError, match="must not be negative"):
        ModelConfig(model="m", budget_tokens=-1)
