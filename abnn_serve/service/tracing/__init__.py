"""W3C trace context, and OpenTelemetry spans of requests."""
