"""A text's tokens with its residual stream, and the attention of every layer and head."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field
from starlette.responses import Response

from microgpt.inference.inspection import stages
from microgpt.serve.api.inside.question import STATUSES, AboutText, Inside, Look, look, pieces, rounded
from microgpt.serve.routes import Call, Route


class Text(BaseModel):
    """A text as its model sees it, and the shape of the model."""

    tokens: list[int]
    pieces: list[str] = Field(description="each token's text")
    dropped: int = Field(description="tokens that were dropped after BOS, because there is no room for them")
    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int
    block_size: int
    stages: list[str] = Field(description="of the residual stream: the embedding, then after each part of each layer")
    norms: list[list[float]] = Field(description="the length of the residual stream, by stage and position")
    bits: list[float | None] = Field(description="the surprise of each token after those before it; none of the first")


async def text(call: Call) -> Text:
    """A text's tokens, and the norms of its residual stream."""

    def answer(inside: Inside) -> Text:
        at = Look(inside.inspector, call.body)
        found, model = at.activations, at.model
        return Text(
            tokens=at.tokens,
            pieces=pieces(inside.inspector.source, at.tokens),
            dropped=at.dropped,
            n_layer=model.n_layer,
            n_head=model.n_head,
            n_embd=model.n_embd,
            vocab_size=model.vocab,
            block_size=model.block_size,
            stages=stages(model),
            bits=[None, *map(_bits, found["logits"], at.tokens[1:])],
            norms=[rounded(np.linalg.norm(found[stage], axis=1)) for stage in stages(model)],
        )

    return await look(call, answer)


def _bits(logits: np.ndarray, token: int) -> float:
    """The surprise of a token, -log2 of its probability."""
    shifted = logits.astype(np.float64) - logits.max()
    return round(float(np.log2(np.exp(shifted).sum()) - shifted[token] / np.log(2)), 4)


async def attention(call: Call) -> Response:
    """Attention's weights.

    For each layer and head the rows of the lower triangle: position 0 on 0, 1 on 0, 1 on 1, 2 on 0, … Each weight is
    a little-endian uint16, of which 65535 stands for 1: exact to 8e-6, and 2 MB for 64 heads of 180 positions.
    """

    def answer(inside: Inside) -> Response:
        at = Look(inside.inspector, call.body)
        below = np.flatnonzero(np.tri(len(at.tokens)))
        found = at.activations
        heads = [found[f"layer{i}.attention"].reshape(at.model.n_head, -1) for i in range(at.model.n_layer)]
        packed = [np.rint(weights.take(below, axis=1) * 65535).astype("<u2").tobytes() for weights in heads]
        return Response(b"".join(packed), media_type=MEDIA)

    return await look(call, answer)


MEDIA = "application/octet-stream"
ROUTES = [
    Route(
        "POST",
        "/api/inside/text",
        text,
        "A text's tokens and residual stream.",
        body=AboutText,
        answer=Text,
        statuses=STATUSES,
    ),
    Route(
        "POST",
        "/api/inside/attention",
        attention,
        "The attention of all layers and heads: uint16, lower triangles.",
        body=AboutText,
        media=MEDIA,
        statuses=STATUSES,
    ),
]
