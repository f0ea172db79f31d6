"""`/v1/responses`: a response is one answer that is kept; the next one may go on from it, any number of times."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from .background import Background
from .fields import Response, parsed
from .following import Events, Run, again
from .house import House, begun, found, once, owner, read_json, streamed, until
from .once import Try
from .problem import bad
from .reply import Reply


def routes(house: House) -> APIRouter:
    """The routes of responses."""
    router, background = APIRouter(prefix="/v1/responses"), Background(house)
    house.closing.append(background.stop)
    house.endings["response"] = lambda one: _drop(house, one.body)
    house.figures.watch({"responses_in_background": lambda: len(background)})

    def kept(request: Request, id: str) -> dict[str, Any]:
        return found(house.store.get("response", owner(request), id), "response", id)

    @router.post("")
    async def create(request: Request) -> Any:
        body = await read_json(request)
        given = parsed(Response, body)

        async def run(one: Try) -> Run:
            reply = Reply(house, request, given, one)
            if given.background:
                return await background.begin(reply, until(request))
            return await begun(house, request, reply.answer.begin(), reply.stream(), reply.close)

        async def whole(one: Try) -> dict[str, Any]:
            reply = Reply(house, request, given, one)
            if given.background:
                await background.begin(reply, until(request))
                return reply.body
            return await reply.whole()

        return await (streamed(house, request, body, run) if given.stream else once(house, request, body, whole))

    @router.get("/{id}")
    async def retrieve(request: Request, id: str) -> Any:
        live, after = background.find(owner(request), id), _after(request)
        if after is None:
            return live.reply.body if live is not None else kept(request, id)["object"]
        if live is not None:
            return Events(live.run, after)
        held = kept(request, id)
        if "events" not in held:
            raise bad("stream", "Only responses with background=true can be streamed later.")
        return Events(Run(again(held["events"])), after)

    @router.get("/{id}/input_items")
    def input_items(request: Request, id: str) -> Any:
        held = kept(request, id)
        return page(request, [*held["before"], *held["input"]])

    @router.delete("/{id}")
    async def delete(request: Request, id: str) -> Any:
        await background.cancel(owner(request), id)
        held = kept(request, id)
        house.store.delete("response", owner(request), id)
        _drop(house, held)
        return {"id": id, "object": "response", "deleted": True}

    @router.post("/{id}/cancel")
    async def cancel(request: Request, id: str) -> Any:
        await background.cancel(owner(request), id)
        body = kept(request, id)["object"]
        if not body["background"]:
            raise bad("id", "Only background responses can be cancelled.")
        return body

    return router


def page(request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A part of a list of items, by `limit`, `order` and `after`. Raises Problem."""
    asked = request.query_params
    order, limit = asked.get("order", "desc"), asked.get("limit", "20")
    if order not in ("asc", "desc"):
        raise bad("order", "order must be asc or desc.")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= 100):
        raise bad("limit", "limit must be a whole number from 1 to 100.")
    items = items if order == "asc" else items[::-1]
    after = asked.get("after")
    if after is not None:
        at = next((i for i, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise bad("after", "after is no item of this list.")
        items = items[at + 1 :]
    data = items[: int(limit)]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, "has_more": len(items) > len(data)} | ends


def _drop(house: House, held: dict[str, Any]) -> None:
    if held.get("mark") is not None:
        house.marks.drop(held["mark"])


def _after(request: Request) -> int | None:
    """The number of the first event of a stream that is asked for; None: no stream is. Raises Problem."""
    asked = request.query_params
    stream, last = asked.get("stream", "false"), asked.get("starting_after")
    if stream not in ("true", "false"):
        raise bad("stream", "stream must be true or false.")
    if last is not None and not (last.isascii() and last.isdigit() and len(last) < 10):
        raise bad("starting_after", "starting_after must be the sequence number of an event.")
    if last is not None and stream == "false":
        raise bad("starting_after", "starting_after needs stream=true.")
    return None if stream == "false" else 0 if last is None else int(last) + 1
