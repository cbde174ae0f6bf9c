"""The neurons of a layer's MLP: how strongly they fire, on which texts, and which tokens they make likelier."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field

from microgpt.inference.neurons import Example, SampleSource, effect
from microgpt.serve import limits
from microgpt.serve.api.inside.question import STATUSES, AboutModel, Inside, check, look, pieces, rounded
from microgpt.serve.routes import Call, Route

AROUND = 24  # tokens that are shown on either side of a peak


class Layer(AboutModel):
    """A layer of a model."""

    layer: limits.Place


class Neuron(Layer):
    """One of its neurons, and how much to show."""

    neuron: limits.Place
    top: limits.Shown = 5


class Neurons(BaseModel):
    """All neurons of a layer on sample texts."""

    source: SampleSource = Field(description="the run's own data, or texts that the model generated")
    texts: int
    positions: int
    peaks: list[float] = Field(description="the largest value of each neuron")
    shares: list[float] = Field(description="the share of positions at which each is above 0")


class Firing(BaseModel):
    """A text that makes a neuron fire, or the part of it around its peak."""

    pieces: list[str]
    values: list[float] = Field(description="of the neuron after each token")
    peak: int = Field(description="where the largest is in these lists")
    before: bool = Field(description="whether the text begins before")
    after: bool = Field(description="whether the text goes on")


class Pushed(BaseModel):
    """A token, and what one unit of a neuron adds to its logit."""

    piece: str
    logit: float


class Fired(BaseModel):
    """A neuron."""

    examples: list[Firing]
    raises: list[Pushed]
    lowers: list[Pushed]


async def neurons(call: Call) -> Neurons:
    """All neurons of a layer; the first look at a model's neurons takes up to some seconds."""

    def answer(inside: Inside) -> Neurons:
        layer = call.body.layer
        check(layer, inside.inspector.model.n_layer, "layer")
        found = inside.firing
        return Neurons(
            source=found.source,
            texts=len(found.texts),
            positions=found.positions,
            peaks=rounded(found.peaks[:, layer].max(axis=0)),
            shares=rounded(found.share[layer]),
        )

    return await look(call, answer, slow=True)


async def neuron(call: Call) -> Fired:
    """The texts that make a neuron fire most, and the tokens whose logits it changes most."""

    def answer(inside: Inside) -> Fired:
        layer, number, top = call.body.layer, call.body.neuron, call.body.top
        model = inside.inspector.model
        check(layer, model.n_layer, "layer")
        check(number, 4 * model.n_embd, "neuron")
        pushed = effect(inside.inspector, layer, number)
        order = np.argsort(-pushed, kind="stable")

        def told(tokens: np.ndarray) -> list[Pushed]:
            texts = pieces(inside.inspector.source, tokens.tolist())
            return [Pushed(piece=p, logit=v) for p, v in zip(texts, rounded(pushed[tokens]), strict=True)]

        examples = inside.firing.examples(layer, number, top)
        return Fired(
            examples=[_firing(inside, example) for example in examples],
            raises=told(order[:top]),
            lowers=told(order[::-1][:top]),
        )

    return await look(call, answer, slow=True)


def _firing(inside: Inside, example: Example) -> Firing:
    first, end = max(0, example.peak - AROUND), example.peak + AROUND + 1
    return Firing(
        pieces=pieces(inside.inspector.source, example.tokens[first:end]),
        values=rounded(example.values[first:end]),
        peak=example.peak - first,
        before=first > 0,
        after=end < len(example.tokens),
    )


ROUTES = [
    Route(
        "POST",
        "/api/inside/neurons",
        neurons,
        "How strongly the neurons of a layer fire.",
        body=Layer,
        answer=Neurons,
        statuses=STATUSES,
    ),
    Route(
        "POST",
        "/api/inside/neuron",
        neuron,
        "The texts that make a neuron fire most.",
        body=Neuron,
        answer=Fired,
        statuses=STATUSES,
    ),
]
