"""POST /v1/responses: the answer to messages, stateless, as text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from microgpt.data.conversations import Message, Role
from microgpt.serve import limits
from microgpt.serve.generation import Event, Finished
from microgpt.serve.limits import length, most
from microgpt.serve.openai.answer_format import FlatFormat, constraint, grammar
from microgpt.serve.openai.chats import answering
from microgpt.serve.openai.choices import Choice, pieces, read
from microgpt.serve.openai.fields import SamplingFields, Shape, invalid, one_of
from microgpt.serve.openai.messages import SAYS, TextPart, chat_model, plain, told
from microgpt.serve.openai.prompts import conversation
from microgpt.serve.openai.response_shapes import (
    AnswerText,
    IncompleteDetails,
    ItemEvent,
    OutputMessage,
    OutputText,
    PartEvent,
    Response,
    ResponseState,
    ResponseUsage,
    Status,
    TextDelta,
    TextDone,
)
from microgpt.serve.openai.shapes import new_id, now
from microgpt.serve.openai.streaming import Chunk, Chunks, ReplyStream
from microgpt.serve.routes import Call, Events

Nothing = Annotated[list[None], Field(max_length=0)]


class InputPart(TextPart):
    """A part of an item's content; one of an earlier response is taken as it came."""

    type: Literal["input_text", "output_text"]
    annotations: Nothing | None = None
    logprobs: Nothing | None = None


class InputItem(Shape):
    """A message; one of an earlier response is taken as it came."""

    type: Literal["message"] = "message"
    role: Role
    content: Annotated[
        Annotated[str, SAYS] | Annotated[list[InputPart], length("parts")],
        one_of(f"a text, or 1 to {most('parts'):,} parts of type input_text or output_text"),
    ]
    id: Annotated[str, length("name_chars")] | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class TextOptions(Shape):
    """The form of the answer."""

    format: FlatFormat | None = None


class ResponseBody(SamplingFields):
    """A request of /v1/responses."""

    input: Annotated[
        Annotated[str, SAYS] | Annotated[list[InputItem], length("messages")],
        one_of(f"a text, or 1 to {most('messages'):,} messages of text parts"),
    ]
    instructions: str | None = Field(
        None, description="a system message before the others", json_schema_extra={"pattern": r"^$|\S"}
    )
    max_output_tokens: limits.AnswerTokens | None = Field(None, description="the rest of the context by default")
    text: TextOptions | None = None
    store: bool | None = Field(None, description="responses are not stored", json_schema_extra={"enum": [False, None]})


async def responses(call: Call) -> Response | Events:
    """Answer messages."""
    body: ResponseBody = call.body
    if body.store:
        raise invalid("store", "responses are not stored here; leave it out")
    served = await call.service.models.get(body.model)
    model = chat_model(served)
    tokens = await conversation(model, _messages(body), "input")
    wanted = body.text and body.text.format
    shape = await grammar(model, wanted, "text.format")
    mask = constraint(shape, model, tokens, body.max_output_tokens)
    request = answering(model, tokens, body, body.first_seed(), max_tokens=body.max_output_tokens, mask=mask)
    blank = Response(
        id=new_id("resp_"),
        created_at=now(),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        model=served.name,
        output=[],
        temperature=request.sampling.temperature,
        text=AnswerText(format=wanted.model_dump(by_alias=True) if wanted else {"type": "text"}),
        top_p=request.sampling.top_p,
        usage=None,
    )
    key = new_id("msg_")
    choices = [Choice(0, model.tokenizer, logprobs=False)]
    reply = await served.submit([request], call.client, whole=not body.stream)
    if body.stream:
        opening, chunks = _stream(blank, key, choices)
        return Events(ReplyStream(reply, chunks, opening=opening, done=False, named=True))
    (whole,) = await read(reply, choices)
    return _ended(blank, key, whole.text, whole.end)


def _messages(body: ResponseBody) -> list[Message]:
    """The messages of a request. Raises ApiError for one without text."""
    if isinstance(body.input, str):
        found = [Message("user", told("input", body.input))]
    else:
        found = plain(body.input, "input")
    return [Message("system", told("instructions", body.instructions)), *found] if body.instructions else found


def _ended(blank: Response, key: str, text: str, end: Finished) -> Response:
    """A response with its answer."""
    complete = end.reason == "stop"
    status: Status = "completed" if complete else "incomplete"
    usage = ResponseUsage(
        input_tokens=end.prompt_tokens,
        output_tokens=end.completion_tokens,
        total_tokens=end.prompt_tokens + end.completion_tokens,
    )
    message = OutputMessage(id=key, status=status, content=[OutputText(text=text)])
    details = None if complete else IncompleteDetails()
    return blank.model_copy(
        update={"status": status, "output": [message], "usage": usage, "incomplete_details": details}
    )


def _stream(blank: Response, key: str, choices: Sequence[Choice]) -> tuple[list[Chunk], Chunks]:
    """The events before the first token, and those of what is generated."""
    count, text = itertools.count(), ""

    def fields(name: str) -> dict[str, Any]:
        return {"type": f"response.{name}", "sequence_number": next(count)}

    opening: list[Chunk] = [
        ResponseState(**fields("created"), response=blank),
        ResponseState(**fields("in_progress"), response=blank),
        ItemEvent(**fields("output_item.added"), item=OutputMessage(id=key, status="in_progress", content=[])),
        PartEvent(**fields("content_part.added"), item_id=key, part=OutputText(text="")),
    ]

    def chunks(events: Sequence[tuple[int, Event]]) -> Iterator[Chunk]:
        nonlocal text
        for piece in pieces(events, choices):
            text += piece.text
            if piece.text or not piece.end:
                yield TextDelta(**fields("output_text.delta"), item_id=key, delta=piece.text)
            if piece.end:
                ended = _ended(blank, key, text, piece.end)
                yield TextDone(**fields("output_text.done"), item_id=key, text=text)
                yield PartEvent(**fields("content_part.done"), item_id=key, part=OutputText(text=text))
                yield ItemEvent(**fields("output_item.done"), item=ended.output[0])
                yield ResponseState(**fields(str(ended.status)), response=ended)

    return opening, chunks
