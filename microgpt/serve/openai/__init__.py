"""The routes that OpenAI's clients know, and those of the tokenizer that llama.cpp's and vLLM's know."""

from __future__ import annotations

from microgpt.serve.errors import Dialect
from microgpt.serve.openai.chats import ChatChunk, ChatCompletion, ChatCompletionBody, chat
from microgpt.serve.openai.completions import Completion, CompletionBody, completions
from microgpt.serve.openai.fields import refuse
from microgpt.serve.openai.models import Model, ModelList, model, models
from microgpt.serve.openai.response_shapes import EVENTS, Response
from microgpt.serve.openai.responses import ResponseBody, responses
from microgpt.serve.openai.tokens import (
    DetokenizeBody,
    Text,
    TokenizeBody,
    TokenizerInfo,
    Tokens,
    detokenize,
    tokenize,
    tokenizer_info,
)
from microgpt.serve.routes import Handler, Route


def _get(path: str, handler: Handler, summary: str, **options: object) -> Route:
    return Route("GET", path, handler, summary, dialect=Dialect.OPENAI, **options)  # type: ignore[arg-type]


def _post(path: str, handler: Handler, summary: str, **options: object) -> Route:
    options |= {"dialect": Dialect.OPENAI, "refuse": refuse, "statuses": {404: "no model of that name"}}
    return Route("POST", path, handler, summary, **options)  # type: ignore[arg-type]


ROUTES = [
    _get("/v1/models", models, "The models, the default one first.", answer=ModelList),
    _get("/v1/models/{id:path}", model, "One model.", answer=Model, statuses={404: "no model of that name"}),
    _post(
        "/v1/completions",
        completions,
        "Continue texts.",
        body=CompletionBody,
        answer=Completion,
        events=(Completion,),
    ),
    _post(
        "/v1/chat/completions",
        chat,
        "Answer messages.",
        body=ChatCompletionBody,
        answer=ChatCompletion,
        events=(ChatChunk,),
    ),
    _post(
        "/v1/responses",
        responses,
        "Answer messages, as text.",
        body=ResponseBody,
        answer=Response,
        events=EVENTS,
        done=False,
    ),
    _post("/tokenize", tokenize, "A text's tokens.", body=TokenizeBody, answer=Tokens),
    _post("/detokenize", detokenize, "The text of tokens.", body=DetokenizeBody, answer=Text),
    _get("/tokenizer_info", tokenizer_info, "Facts of the default model's tokenizer.", answer=TokenizerInfo),
]
