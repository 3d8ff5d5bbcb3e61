"""The dashboard of the service: rate, errors, duration, saturation."""

from deploy.grafana.panels import Panel, Row, increase, quantile, rate, select, stat, total

CALLS = 'route=~"/transcribe|/v1/audio/.+"'
"""Transcriptions only: probes and scrapes would drown them."""
WINDOWS = ("5m", "1h", "6h", "3d")


def errors(window: str) -> str:
    """The part of requests that failed, as deploy/prometheus/rules records it."""
    return f'asr:request_errors:ratio_rate{window}{{job="$job"}}'


SERVICE = (
    Row(
        "Now",
        (
            stat(
                "Ready", "Services that can transcribe.", total(select("asr_ready")), "short", ("red", 0), ("green", 1)
            ),
            stat("Requests", "Transcription requests a second.", rate("asr_requests_total", CALLS), "reqps"),
            stat(
                "Errors",
                "Transcription requests of the last hour that failed by the service's fault. At most 0.5 % should.",
                errors("1h"),
                "percentunit",
                *(("green", 0), ("orange", 0.005), ("red", 0.03)),
            ),
            stat(
                "Duration, p95",
                "19 of 20 transcription requests take less than this, upload included.",
                quantile(0.95, "asr_request_seconds", CALLS),
                "s",
            ),
            stat(
                "Queue age",
                "How long the recording has waited that waits longest for its first token.",
                f"max({select('asr_queue_age_seconds')})",
                "s",
                *(("green", 0), ("orange", 10), ("red", 30)),
            ),
            stat(
                "Audio",
                "Seconds of audio that are transcribed per second.",
                rate("asr_audio_seconds_total"),
                "suffix:× real time",
            ),
        ),
    ),
    Row(
        "Rate",
        (
            Panel(
                "Requests by route",
                "All answered requests but probes and scrapes.",
                (
                    (
                        rate("asr_requests_total", 'route!~"/livez|/readyz|/metrics"', "route, method"),
                        "{{method}} {{route}}",
                    ),
                ),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Requests by kind of caller",
                "How callers of transcriptions were recognised. none: refused, or not asked.",
                ((rate("asr_request_seconds_count", CALLS, "caller"), "{{caller}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Audio",
                "Seconds of audio that are transcribed per second.",
                ((rate("asr_audio_seconds_total", by="instance"), "{{instance}}"),),
                "suffix:× real time",
                stacked=True,
            ),
        ),
    ),
    Row(
        "Errors",
        (
            Panel(
                "Answers by status",
                "Transcription requests. 499: the client left before its answer.",
                ((rate("asr_requests_total", CALLS, "status"), "{{status}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Errors by code",
                "Of all routes; docs/api.md says what each means.",
                ((rate("asr_requests_total", 'code!="ok"', "code"), "{{code}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Error ratio",
                "Transcription requests that failed by the service's fault, of all services of the job.",
                (*((errors(window), f"within {window}") for window in WINDOWS), ("vector(0.005)", "objective")),
                "percentunit",
            ),
            Panel(
                "Refused for want of room",
                "Requests that were not let in: too many, too much audio, or the service ends.",
                ((rate("asr_refusals_total", by="reason"), "{{reason}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Refused by limits of callers",
                "By the limit that was reached.",
                ((rate("asr_rate_limited_total", by="limit"), "{{limit}}"),),
                "reqps",
                stacked=True,
            ),
            Panel(
                "Refused credentials",
                "By what was wrong with them.",
                ((rate("asr_auth_refused_total", by="reason"), "{{reason}}"),),
                "reqps",
                stacked=True,
            ),
        ),
    ),
    Row(
        "Duration",
        (
            Panel(
                "Transcription requests",
                "From the first byte of the request to the last of the answer.",
                tuple(
                    (quantile(part, "asr_request_seconds", CALLS), f"p{part * 100:.0f}") for part in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "By route, p95",
                "From the first byte of the request to the last of the answer.",
                ((quantile(0.95, "asr_request_seconds", CALLS, "route"), "{{route}}"),),
                "s",
            ),
            Panel(
                "By stage, p95",
                "Where the time goes. Of the engine's stages, that of each request's slowest window.",
                ((quantile(0.95, "asr_request_stage_seconds", by="stage"), "{{stage}}"),),
                "s",
            ),
        ),
    ),
    Row(
        "Live",
        (
            Panel(
                "Sessions",
                "Live sessions that are open.",
                ((total(select("asr_live_sessions"), "instance"), "{{instance}}"),),
                stacked=True,
            ),
            Panel(
                "Utterances",
                "By how they ended: with a text, or without one.",
                ((rate("asr_live_utterances_total", by="ending"), "{{ending}}"),),
                "suffix: a second",
                stacked=True,
            ),
            Panel(
                "Final text",
                "From the end of an utterance's silence to its final text.",
                tuple((quantile(part, "asr_live_final_seconds"), f"p{part * 100:.0f}") for part in (0.5, 0.95, 0.99)),
                "s",
            ),
            Panel(
                "Drafts",
                "Transcriptions of speech that still goes on. Superseded ones were out of date before the engine came "
                "to them: it has too much to do.",
                ((rate("asr_live_drafts_total", by="outcome"), "{{outcome}}"),),
                "suffix: a second",
                stacked=True,
            ),
            Panel(
                "Age of drafts",
                "How far growing text is behind the speaker when it comes.",
                tuple(
                    (quantile(part, "asr_live_draft_age_seconds"), f"p{part * 100:.0f}") for part in (0.5, 0.95, 0.99)
                ),
                "s",
            ),
            Panel(
                "Listening processes that died",
                "Sessions notice a delay; what was said is not lost.",
                ((increase("asr_listener_restarts_total", "instance"), "{{instance}}"),),
                stacked=True,
            ),
        ),
    ),
    Row(
        "Saturation",
        (
            Panel(
                "Requests in work",
                "Those that were let in, and those of them whose handlers are at work.",
                (
                    (total(select("asr_queue_requests"), "instance"), "let in, {{instance}}"),
                    (total(select("asr_requests_in_flight"), "instance"), "in work, {{instance}}"),
                ),
            ),
            Panel(
                "Audio in work",
                "Audio that was let in and is not transcribed yet.",
                ((total(select("asr_queue_audio_seconds"), "instance"), "{{instance}}"),),
                "s",
            ),
            Panel(
                "Queue age",
                "How long the recording has waited that waits longest for its first token.",
                ((f"max by (instance) ({select('asr_queue_age_seconds')})", "{{instance}}"),),
                "s",
            ),
            Panel(
                "Decode workers that ended",
                "dismissed is harmless: a client has left. The others cost a recording each.",
                ((increase("asr_decode_worker_restarts_total", "reason"), "{{reason}}"),),
                stacked=True,
            ),
            Panel(
                "API process",
                "Processor time and open files of the process that answers HTTP.",
                (
                    (rate("asr_process_cpu_seconds_total", by="instance"), "cores, {{instance}}"),
                    (
                        f"{select('asr_process_open_fds')} / {select('asr_process_max_fds')}",
                        "open files, {{instance}}",
                    ),
                ),
                "percentunit",
            ),
            Panel(
                "Store of limits",
                "1 while limits are counted where they should be, and what the store failed to do.",
                (
                    (select("asr_rate_limit_store_up"), "up, {{instance}}"),
                    (rate("asr_rate_limit_store_failures_total", by="instance"), "failures a second, {{instance}}"),
                ),
            ),
        ),
    ),
)
