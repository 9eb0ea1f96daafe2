"""Chat Completions and Messages, each a reader and a voice around one way of answering; see also ``responses.py``."""

from __future__ import annotations

from . import fields
from .answering import Interface, answer
from .asgi import Receive, Scope, Send, send_json
from .asking import checked, estimated_tokens
from .chat_reading import read_chat
from .chat_voice import ChatVoice
from .messages_reading import read_messages_request, shows_thinking
from .messages_voice import MessagesVoice
from .responses_reading import read_response_request
from .service import Endpoint


class ChatCompletions(Endpoint):
    """``POST /v1/chat/completions``; also takes Responses' items, which one client sends here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        body = await self.body(scope, receive)
        is_chat = "messages" in body or "input" not in body
        ask = read_chat(body) if is_chat else read_response_request(body)
        with_usage = fields.mapping(body, "stream_options").get("include_usage") is True
        interface = Interface(lambda run: ChatVoice(run, ask.model, ask.speech, with_usage), "call")
        await answer(self.service, ask, interface, scope, receive, send)


class Messages(Endpoint):
    """``POST /v1/messages``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        body = await self.body(scope, receive)
        ask = read_messages_request(body)
        tokens, shows = estimated_tokens(ask), shows_thinking(body)
        interface = Interface(lambda run: MessagesVoice(run, ask.model, ask.speech, tokens, shows), "toolu")
        await answer(self.service, ask, interface, scope, receive, send)


class CountTokens(Endpoint):
    """``POST /v1/messages/count_tokens``: an estimate, since nobody knows yet whose tokens they will be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        body = await self.body(scope, receive)
        ask = checked(read_messages_request(body), self.service.settings.limits)
        self.service.catalogue.find(ask.model)
        await send_json(send, 200, {"input_tokens": estimated_tokens(ask)})
