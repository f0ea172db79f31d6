"""The server's own schema at `/openapi.json`: the routes, and the bodies, which routes check themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from . import fields

# What the body of each route is parsed as; a route without one takes no fields.
BODIES: dict[str, type[fields.Fields] | None] = {
    "/v1/chat/completions": fields.Chat,
    "/v1/completions": fields.Completion,
    "/v1/responses": fields.Response,
    "/v1/responses/{id}/cancel": None,
    "/v1/conversations": fields.Conversation,
    "/v1/conversations/{id}": fields.Metadatas,
    "/v1/conversations/{id}/items": fields.Items,
    "/sessions": fields.NewSession,
    "/sessions/{id}": fields.SessionUpdate,
    "/sessions/{id}/append": fields.Append,
    "/sessions/{id}/score": fields.Score,
    "/sessions/{id}/find": fields.Find,
    "/sessions/{id}/generate": fields.Continue,
    "/sessions/{id}/fork": None,
    "/sessions/{id}/mark": None,
    "/sessions/{id}/rollback": fields.Rollback,
}
_NAMED = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """From now on the schema of the application has the bodies. Call it when all routes are there."""
    plain = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_bodies(plain())
        return plain()

    app.openapi = whole


def _add_bodies(schema: dict[str, Any]) -> None:
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    for path, kind in BODIES.items():
        content: dict[str, Any] = {"schema": {"type": "object"}}
        if kind is not None:
            body = kind.model_json_schema(ref_template=_NAMED)
            parts.update(body.pop("$defs", {}))
            parts[kind.__name__] = body
            content = {"schema": {"$ref": _NAMED.format(model=kind.__name__)}}
        schema["paths"][path]["post"]["requestBody"] = {"required": kind is not None, "content": {"application/json": content}}
    upload = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    schema["paths"]["/sessions/upload"]["post"]["requestBody"] = {"required": True, "content": upload}
