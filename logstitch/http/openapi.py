"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0), made of the endpoints and the schemas that check.

Errors are not listed by hand: which an endpoint may answer with follows from what it takes and who may call it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

import logstitch
from logstitch.http import examples
from logstitch.http.endpoints import About, Call, Endpoint, ResponseHeader, Success
from logstitch.http.errors import HEADERS_TOO_LARGE, TABLE, Meaning
from logstitch.http.responses import Reply
from logstitch.http.roles import Kind
from logstitch.http.schemas.common import AnyObject, NoQuery
from logstitch.http.schemas.errors import ErrorBody

PATH = "/api/v1/openapi.json"
_REF = "#/components/schemas/{model}"

MEANINGS: Mapping[str, Meaning] = {meaning.code: meaning for meaning in (*TABLE.values(), HEADERS_TOO_LARGE)}

_INTRODUCTION = """\
Send audit events, list them, say what must not be stored of them, manage keys and projects.

**Credentials.** `Authorization: Bearer <key>`. A master key (`mk_…`) stands for the whole organization, a project key
(`pk_…`) for one project. A master key names the project with the header `X-Project-Id` or the query parameter
`project_id`; it may leave that out where the organization has one project only. A viewer token (`vt_…`) is made by a
project key for one of its tenants, lives a day at most, and may be handed to that tenant's browser: it reads the
tenant's events and nothing else, without the fields that its tier hides.

**Answers** are JSON objects with a `request_id`, which is also in the header `X-Request-Id`: only exports and this
document have none in their body.
Times are ISO 8601 in UTC with milliseconds. An answer that is no success has the form `{"error": {"code", "message",
"details"?}, "request_id"}`: programs look at `code`, and `details` name every bad field by its dot path.

**Strictness.** Unknown query parameters and unknown body fields are refused with `validation_error`, so that a mistyped
filter never widens what is returned. A body is JSON in UTF-8 of at most 5 MiB (512 KiB where it has no event), with
`Content-Type: application/json` and no Content-Encoding, no key twice in one object, no number beyond what it can be
given back as.

**Paging.** `limit` (1 to 100) and `cursor`; go on with the answer's `cursor` until `has_more` is false. A cursor
belongs to its list and filters.

**Trying again.** `503` is transient: send the same request again after the seconds in its `Retry-After`. `429` has that
header, too: till then, what it names is used up. After `408`, a body that came too slowly, send it again at once. `500`
is a failure of the service, which may pass or not, and does not say whether anything was done. Any other answer will be
the same. Events that carry an `idempotency_key` are stored once, however often they are sent. Every request is answered
within 10 seconds after it has arrived; an export has begun by then.
"""

_COMMON_HEADERS: Mapping[str, ResponseHeader] = {
    "X-Request-Id": ResponseHeader(
        "The `request_id` of the body.", {"type": "string", "pattern": "^req_[0-9A-Z]{26}$"}
    ),
}
_RETRY_AFTER = ResponseHeader("Seconds to wait before trying again.", {"type": "integer", "minimum": 1})
_CHALLENGE = ResponseHeader("How to authenticate.", {"type": "string"})


def document(endpoints: Iterable[Endpoint], title: str = "LogStitch") -> dict[str, Any]:
    """The document of these endpoints."""
    listed = tuple(endpoints)
    schemas, components = _schemas(listed)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    codes: set[str] = set()
    for endpoint in listed:
        paths[endpoint.route][endpoint.method.lower()] = _operation(endpoint, schemas)
        codes |= set(error_codes(endpoint))
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": logstitch.__version__, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "responses": {status: _error_response(status, codes) for status in _statuses(codes)},
            "securitySchemes": {
                "masterKey": {"type": "http", "scheme": "bearer", "description": "A master key, `mk_…`"},
                "projectKey": {"type": "http", "scheme": "bearer", "description": "A project key, `pk_…`"},
                "viewerToken": {"type": "http", "scheme": "bearer", "description": "A viewer token, `vt_…`"},
            },
        },
    }


def error_codes(endpoint: Endpoint) -> list[str]:
    """Which errors an endpoint may answer with, in the order of their table."""
    codes = {"validation_error", "headers_too_large", "internal_error", "unavailable", *endpoint.errors}
    if not endpoint.is_public:
        codes |= {"unauthorized", "invalid_api_key", "key_revoked"}
        if endpoint.about is not About.NO_PROJECT or not endpoint.roles >= {Kind.MASTER, Kind.PROJECT, Kind.VIEWER}:
            codes.add("forbidden")
        if endpoint.about is not About.NO_PROJECT or "{" in endpoint.path:
            codes.add("not_found")
    if endpoint.body is not None:
        codes |= {"request_timeout", "payload_too_large", "unsupported_media_type"}
    return [code for code in MEANINGS if code in codes]


def _schemas(endpoints: tuple[Endpoint, ...]) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    wanted: dict[tuple[str, JsonSchemaMode], TypeAdapter[Any]] = {("error", "validation"): TypeAdapter(ErrorBody)}
    for endpoint in endpoints:
        wanted[endpoint.name, "validation"] = endpoint.success.schema
        wanted[f"query of {endpoint.name}", "validation"] = TypeAdapter(endpoint.query)
        if endpoint.body is not None:
            wanted[f"body of {endpoint.name}", "validation"] = endpoint.body.schema
    inputs = [(name, mode, adapter) for (name, mode), adapter in wanted.items()]
    found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    components = {name: _without_titles(schema) for name, schema in definitions.get("$defs", {}).items()}
    schemas = {name: _without_titles(schema) for (name, _), schema in found.items()}
    # Queries are spelled out as parameters, and so their schemas are no components.
    for endpoint in endpoints:
        components.pop(endpoint.query.__name__, None)
        schemas[f"query of {endpoint.name}"] = _without_titles(endpoint.query.model_json_schema(ref_template=_REF))
    return schemas, components


def _operation(endpoint: Endpoint, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    success, codes = endpoint.success, error_codes(endpoint)
    operation: dict[str, Any] = {
        "operationId": endpoint.name.replace(".", "_"),
        "tags": [endpoint.name.partition(".")[0]],
        "summary": endpoint.summary,
        "description": endpoint.description,
    }
    if parameters := [*_path_parameters(endpoint), *_query_parameters(endpoint, schemas)]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "description": endpoint.body.description,
            "content": {
                "application/json": {
                    "schema": schemas[f"body of {endpoint.name}"],
                    "examples": {name: {"value": value} for name, value in endpoint.body.examples.items()},
                }
            },
        }
    operation["responses"] = {
        str(success.status): {
            "description": success.description,
            "headers": _headers({**_COMMON_HEADERS, **success.headers}, required=_COMMON_HEADERS),
            "content": {
                content_type: {"schema": schemas[endpoint.name], "example": example}
                for content_type, example in {success.content_type: success.example, **success.others}.items()
            },
        },
    }
    for status in _statuses(codes):
        operation["responses"][status] = {"$ref": f"#/components/responses/{status}"}
    if endpoint.is_public:
        operation["security"] = []
    else:
        schemes = {Kind.MASTER: "masterKey", Kind.PROJECT: "projectKey", Kind.VIEWER: "viewerToken"}
        operation["security"] = [{schemes[kind]: []} for kind in Kind if kind in endpoint.roles]
    return operation


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parts = [part.strip("{}") for part in endpoint.route.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parts]


def _query_parameters(endpoint: Endpoint, schemas: Mapping[Any, Any]) -> list[dict[str, Any]]:
    if endpoint.query is NoQuery:
        parameters = []
    else:
        schema = schemas[f"query of {endpoint.name}"]
        required = schema.get("required", ())
        parameters = [_query_parameter(name, s, name in required) for name, s in schema["properties"].items()]
    if endpoint.about is not About.NO_PROJECT:
        parameters.append(
            {
                "name": "X-Project-Id",
                "in": "header",
                "required": False,
                "description": "The project, for a master key. A project key may name its own.",
                "schema": {"type": "string", "format": "uuid"},
            }
        )
    return parameters


def _query_parameter(name: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    inner = dict(schema)
    description = inner.pop("description", "")
    # A parameter that is left out is not null: what pydantic calls "or None" is "not required" here.
    branches = [branch for branch in inner.get("anyOf", ()) if branch != {"type": "null"}]
    if len(branches) == 1:
        del inner["anyOf"]
        inner.update(branches[0])
    if inner.get("default", ...) is None:
        del inner["default"]
    return {"name": name, "in": "query", "required": required, "description": description, "schema": inner}


def _statuses(codes: Iterable[str]) -> list[str]:
    return sorted({str(MEANINGS[code].status) for code in codes})


def _error_response(status: str, codes: Iterable[str]) -> dict[str, Any]:
    meanings = [m for code, m in MEANINGS.items() if code in codes and str(m.status) == status]
    headers = dict(_COMMON_HEADERS)
    if status in ("429", "503"):
        headers["Retry-After"] = _RETRY_AFTER
    if status == "401":
        headers["WWW-Authenticate"] = _CHALLENGE
    return {
        "description": "\n\n".join(f"`{meaning.code}`: {meaning.when}" for meaning in meanings),
        "headers": _headers(headers, required=headers),
        "content": {
            "application/json": {
                "schema": {"$ref": _REF.format(model="ErrorBody")},
                "examples": {meaning.code: {"value": _error_example(meaning)} for meaning in meanings},
            }
        },
    }


def _error_example(meaning: Meaning) -> dict[str, Any]:
    error: dict[str, Any] = {"code": meaning.code, "message": meaning.when.replace("`", "")}
    if meaning.code == "validation_error":
        error |= {
            "message": "The request is not valid.",
            "details": [{"field": "2.actor.id", "message": "Required"}],
        }
    return {"error": error, "request_id": examples.REQUEST_ID}


def _headers(headers: Mapping[str, ResponseHeader], required: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"description": header.description, "required": name in required, "schema": dict(header.schema)}
        for name, header in headers.items()
    }


def _without_titles(schema: Any) -> Any:
    """pydantic gives every property a title that is its name again."""
    if isinstance(schema, dict):
        return {
            key: {name: _without_titles(inner) for name, inner in value.items()}
            if key in ("properties", "$defs")
            else _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    return schema


def endpoints(document: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """The endpoint that answers with the document."""
    reply = Reply(200, orjson.dumps(document, option=orjson.OPT_INDENT_2))

    async def answer(call: Call, _: bytes) -> Reply:
        return reply

    return (
        Endpoint(
            name="openapi",
            method="GET",
            path=PATH,
            handler=answer,
            summary="This document",
            description="OpenAPI 3.1, without a `request_id` in its body.",
            success=Success(200, "The document.", AnyObject, {}),
        ),
    )
