"""``/v1/responses``: answers, those that are kept under their ids, and long conversations made short."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from . import fields
from .answering import Interface, answer
from .asgi import Receive, Scope, Send, send_json, to_json
from .problems import Kind, Problem
from .responses_reading import Item, input_items, read_response_request
from .responses_settings import settings_of
from .responses_voice import ResponsesVoice
from .service import Endpoint, Service, StoredResponse


class Responses(Endpoint):
    """``POST /v1/responses``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        service, principal = self.service, scope["principal"]
        body = await self.body(scope, receive)
        history = earlier_items(service, principal, body)
        items = [*history, *_resolved(service, principal, input_items(body))]
        ask = read_response_request({**body, "input": items})
        settings = settings_of(body, ask.model)
        shows = ask.is_streamed or settings["reasoning"]["summary"] is not None

        def keep(whole: dict[str, Any]) -> None:
            if settings["store"]:
                keep_response(service, principal, whole, items)

        interface = Interface(lambda run: ResponsesVoice(run, settings, ask.speech, shows), "call", keep)
        await answer(service, ask, interface, scope, receive, send)


def earlier_items(service: Service, principal: str, body: Mapping[str, Any]) -> Sequence[Item]:
    """The items of the conversation that ``previous_response_id`` names.

    Raises:
        Problem: no such response is kept.
    """
    name = fields.text(body, "previous_response_id")
    if not name:
        return ()
    stored = service.stored.get((principal, name))
    if stored is None:
        text = f"there is no response {name[:100]!r} here any more: send the whole conversation"
        raise Problem(Kind.INVALID, text, code="previous_response_not_found", param="previous_response_id")
    return (*stored.items, *stored.body["output"])


def _resolved(service: Service, principal: str, items: Sequence[Item]) -> list[Item]:
    """``items`` with what an ``item_reference`` points to in its place, where that is kept."""
    if not any(item.get("type") == "item_reference" for item in items):
        return list(items)
    known = {
        item.get("id"): item
        for (owner, _), stored in service.stored.items()
        if owner == principal
        for item in (*stored.items, *stored.body["output"])
    }
    return [known.get(item.get("id"), item) if item.get("type") == "item_reference" else item for item in items]


def keep_response(service: Service, principal: str, whole: Mapping[str, Any], items: Sequence[Item]) -> None:
    """Keep a response for whoever asked for it."""
    named = tuple(
        item if isinstance(item.get("id"), str) else {**item, "id": f"msg_{uuid.uuid4().hex}"} for item in items
    )
    stored = StoredResponse(whole, named, len(to_json([whole, named])))
    service.stored.put((principal, whole["id"]), stored)


class StoredResponses(Endpoint):
    """``GET`` and ``DELETE /v1/responses/{id}``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        stored = stored_response(self.service, scope)
        if scope["method"] == "DELETE":
            self.service.stored.pop((scope["principal"], stored.body["id"]))
            deleted = {"id": stored.body["id"], "object": "response", "deleted": True}
            await send_json(send, 200, deleted)
        else:
            await send_json(send, 200, stored.body)


class InputItems(Endpoint):
    """``GET /v1/responses/{id}/input_items``: one page, the latest first as the interface has it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        items = [_listed(item) for item in reversed(stored_response(self.service, scope).items)]
        ends = {"first_id": items[0]["id"] if items else "", "last_id": items[-1]["id"] if items else ""}
        await send_json(send, 200, {"object": "list", "data": items, "has_more": False, **ends})


def _listed(item: Item) -> dict[str, Any]:
    """An item as the list shows it: a message's content as parts."""
    listed = {"type": "message", **item}
    if listed["type"] == "message" and isinstance(listed.get("content"), str):
        kind = "output_text" if listed.get("role") == "assistant" else "input_text"
        listed["content"] = [{"type": kind, "text": listed["content"]}]
    return listed


def stored_response(service: Service, scope: Scope) -> StoredResponse:
    """The response that the path names.

    Raises:
        Problem: it is not kept.
    """
    name = scope["path_params"]["response_id"]
    stored = service.stored.get((scope["principal"], name))
    if stored is None:
        text = f"there is no response {name[:100]!r} here: it was not to be stored, has been deleted, or is too old"
        raise Problem(Kind.NOT_FOUND, text, code="response_not_found")
    return stored


class Compact(Endpoint):
    """``POST /v1/responses/compact``: a long conversation, as the user's messages and one summary.

    The summary is written by one routed Worker; it comes back as a ``compaction`` item, which later requests may hold.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        service, principal = self.service, scope["principal"]
        body = await self.body(scope, receive)
        items = [*earlier_items(service, principal, body), *_resolved(service, principal, input_items(body))]
        request = {"type": "message", "role": "user", "content": COMPACT}
        asked = {**body, "input": [*items, request], "stream": False, "tools": [], "text": None}
        target = service.catalogue.find(fields.text(body, "model", "trinity"))
        ask = read_response_request({**asked, "model": service.catalogue.passing(target)})
        voice_of = _Compacting(items)
        await answer(service, ask, Interface(voice_of, "call"), scope, receive, send)


COMPACT = (
    "Summarise this conversation so that somebody else can go on with it without having seen it: what is wanted, what "
    "was decided and why, what has been done, with names, paths and figures as they are, what is open, what comes next."
)


class _Compacting:
    """Makes the voice that says a summary as a compaction."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._kept = [
            {"id": f"msg_{uuid.uuid4().hex}", "status": "completed", **_listed(item)}
            for item in items
            if item.get("type", "message") == "message" and item.get("role") == "user"
        ]

    def __call__(self, run_id: str) -> ResponsesVoice:
        return _CompactionVoice(run_id, self._kept)


class _CompactionVoice(ResponsesVoice):
    """A response voice whose body is a compaction."""

    def __init__(self, run_id: str, kept: Sequence[Item]) -> None:
        super().__init__(run_id, settings_of({}, "trinity"), {}, shows_progress=False)
        self._kept = list(kept)

    def body(self) -> dict[str, Any]:
        """The ``response.compaction``."""
        whole = super().body()
        texts = [
            part["text"]
            for item in whole["output"]
            if item["type"] == "message"
            for part in item["content"]
            if "text" in part
        ]
        item = {"id": f"cmp_{self._run_id}", "type": "compaction", "encrypted_content": "\n".join(texts)}
        common = {name: whole[name] for name in ("id", "created_at", "usage", "trinity")}
        return {**common, "object": "response.compaction", "output": [*self._kept, item]}
