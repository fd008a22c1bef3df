"""A chat server on the loopback interface, and a short way to ask."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from matrix.records import Message


class ChatServer:
    """Answers /v1/chat/completions and /v1/completions; `plan` may hold what to do instead with the next requests."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.plan: list[Callable[[], web.Response]] = []
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = reply
        self.delay = 0.0
        self.active = 0
        self.most_active = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.active -= 1
        return self.plan.pop(0)() if self.plan else web.json_response(self.answer(body))


def reply(body: dict[str, Any], **choice: Any) -> dict[str, Any]:
    """A chat completion that echoes the last message in capitals."""
    text = body["messages"][-1]["content"].upper()
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
    }


def refusal(status: int, message: str = "busy", **headers: str) -> Callable[[], web.Response]:
    return lambda: web.json_response({"error": {"message": message}}, status=status, headers=headers)


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=text)]
