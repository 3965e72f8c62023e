"""The metrics that the platform's alert rules and dashboards ask for."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "path", "status"])
SECONDS = Histogram("http_request_duration_seconds", "Time to answer a request", ["path"])
UNDERWAY = Gauge("http_requests_in_progress", "Requests being answered")
CALLS_LEFT = Gauge("api_calls_remaining", "Calls left of a data provider's free tier today", ["api"])
QUEUED = Gauge("analysis_queue_length", "Analyses that wait for a worker")
