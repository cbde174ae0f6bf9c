"""The numbers of /metrics before the first request: every counter of every route and status is there, at 0."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from microgpt.serve.admission import Admission
from microgpt.serve.app import routes
from microgpt.serve.metrics import NO_ROUTE, STATUSES, Metrics


def test_all_begin_at_zero() -> None:
    """As Prometheus' own parser reads them."""
    shown = {route.shown for route in routes()}
    text = Metrics(Admission(4, 4), sorted(shown)).text().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    for route in (*shown, NO_ROUTE):
        for status in STATUSES:
            assert found["microgpt_requests_total", route, str(status)] == 0
        assert found["microgpt_request_duration_seconds_count", route] == 0
    for name in ("tokens_generated_total", "time_to_first_token_seconds_count", "active_streams", "queue_depth"):
        assert found[f"microgpt_{name}",] == 0
