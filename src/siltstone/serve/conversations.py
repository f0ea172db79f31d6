"""`/v1/conversations`: items to which responses are added."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request

from .conversation import as_item, from_items
from .fields import Conversation, Items, Metadatas, parsed
from .house import House, found, once, owner, read_json
from .once import Try
from .problem import missing
from .responses import page


def routes(house: House) -> APIRouter:
    """The routes of conversations and their items."""
    router, store = APIRouter(prefix="/v1/conversations"), house.store
    house.endings["conversation"] = lambda one: store.clear(one.owner, one.id)

    def kept(request: Request, id: str) -> dict[str, Any]:
        return found(store.get("conversation", owner(request), id), "conversation", id)

    @router.post("")
    async def create(request: Request) -> Any:
        given = parsed(Conversation, sent := await read_json(request))
        items = [as_item(m) for m in from_items(given.items, "items")]
        body = {
            "id": f"conv_{secrets.token_hex(24)}",
            "object": "conversation",
            "created_at": int(time.time()),
            "metadata": given.metadata or {},
        }

        async def made(one: Try) -> dict[str, Any]:
            with store.together():
                store.put("conversation", owner(request), body["id"], body, house.limits.ttl)
                store.extend(owner(request), body["id"], items)
                one.keep(body)
            return body

        return await once(house, request, sent, made)

    @router.get("/{id}")
    def retrieve(request: Request, id: str) -> Any:
        return kept(request, id)

    @router.post("/{id}")
    async def update(request: Request, id: str) -> Any:
        given = parsed(Metadatas, await read_json(request))
        body = kept(request, id) | {"metadata": given.metadata or {}}
        store.put("conversation", owner(request), id, body, house.limits.ttl)
        return body

    @router.delete("/{id}")
    def delete(request: Request, id: str) -> Any:
        with house.writers.alone(id):
            kept(request, id)
            store.end(owner(request), id)
        return {"id": id, "object": "conversation.deleted", "deleted": True}

    @router.post("/{id}/items")
    async def add(request: Request, id: str) -> Any:
        body = await read_json(request)
        items = [as_item(m) for m in from_items(parsed(Items, body).items, "items")]

        async def added(one: Try) -> dict[str, Any]:
            ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
            answer = {"object": "list", "data": items, "has_more": False} | ends
            with house.writers.alone(id):
                kept(request, id)
                with store.together():
                    store.extend(owner(request), id, items)
                    store.touch(owner(request), id)
                    one.keep(answer)
            return answer

        return await once(house, request, body, added)

    @router.get("/{id}/items")
    def listed(request: Request, id: str) -> Any:
        kept(request, id)
        return page(request, store.items(owner(request), id))

    @router.get("/{id}/items/{item}")
    def one(request: Request, id: str, item: str) -> Any:
        kept(request, id)
        return found(next((x for x in store.items(owner(request), id) if x["id"] == item), None), "item", item)

    @router.delete("/{id}/items/{item}")
    def remove(request: Request, id: str, item: str) -> Any:
        body = kept(request, id)
        if not store.remove(owner(request), id, item):
            raise missing("item", item)
        return body

    return router
