"""A check that schemathesis loads beside its own: a request of the described shape is refused only for what a schema
cannot say. Any other refusal is a mistake of the schema. The page's own routes, which refuse what this model lacks, are
left out."""

from __future__ import annotations

import json
import re
from typing import Any

import schemathesis

UNSAYABLE = re.compile(
    "|".join(
        [
            # JSON Schema takes 1.0 for an integer; a strict type does not.
            r"[Ii]nput should be a valid integer",
            r"prompt: expected a text, token ids, or a list of 1 to 64 of either",
            # Of the model: its vocabulary and its context.
            r"is no token; expected ids from 0 to \d+",
            r"\d+ tokens, but this model's context holds \d+",
            # Of two fields together.
            r"top_logprobs: only with logprobs: true",
            r"stream_options: only with stream: true",
            r"max_completion_tokens: max_tokens says otherwise; give one of the two",
            r"n: \d+ prompts times \d+ choices; expected at most \d+ in all",
            # One part of a message may be blank, all together not.
            r"(messages|input)\[\d+\]\.content: must not be blank",
            # Python's $ matches before a line break, and its \s knows other blanks; schemathesis makes texts by both.
            r"logit_bias: string should match pattern",
            r"(input|instructions): must not be blank",
            r"messages\[\d+\]: content must not be empty",
            # A schema within the request, which may hold anything, such as integers that no JSON of ours has.
            r"(response_format|text|logit_bias): an integer is beyond 64 bits",
            r"(response_format\.json_schema|text\.format)\.schema: ",
        ]
    )
)


@schemathesis.check
def refused_for_what_a_schema_cannot_say(context: Any, response: Any, case: Any) -> None:
    """Raises AssertionError for another refusal of a request of the described shape."""
    described = case.meta is not None and case.meta.generation.mode.is_positive and not case.path.startswith("/api/")
    if described and response.status_code in (400, 422):
        error = json.loads(response.content)["error"]
        message = error if isinstance(error, str) else error["message"]
        assert UNSAYABLE.search(message), f"the schema allows this request, but: {message}"
