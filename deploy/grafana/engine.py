"""The dashboard of the engine: batches, slots, queue, padding, memory, real-time factor."""

from deploy.grafana.panels import Panel, Row, increase, mean, quantile, rate, select, stat, total

PADDING = " / ".join(rate("asr_engine_encoder_frames_total", f'kind="{kind}"') for kind in ("real", "padded"))

ENGINE = (
    Row(
        "Now",
        (
            Panel(
                "Model",
                "What is loaded.",
                ((select("asr_model_info"), "{{name}} ({{dtype}}, {{device}})"),),
                kind="stat",
                width=8,
            ),
            stat(
                "Slots used",
                "Windows that hold a slot, as a part of all slots.",
                total(select("asr_engine_running")) + " / " + total(select("asr_engine_slots")),
                "percentunit",
            ),
            stat(
                "RTF",
                "Processing time / audio time of requests, waiting included.",
                rate("asr_request_stage_seconds_sum", 'stage="total"') + " / " + rate("asr_audio_seconds_total"),
                "short",
                *(("green", 0), ("orange", 0.5), ("red", 1)),
            ),
            stat(
                "Padding",
                "Encoder frames that were computed and hold no audio.",
                f"1 - {PADDING}",
                "percentunit",
            ),
            stat(
                "Restarts",
                "Engines that died in the time shown.",
                increase("asr_engine_restarts_total", "", "$__range"),
                "short",
                *(("green", 0), ("orange", 1), ("red", 3)),
            ),
        ),
    ),
    Row(
        "Batches",
        (
            Panel(
                "Batch size",
                "Windows in a decoder step, on average.",
                ((mean("asr_engine_batch_size", by="instance, engine"), "{{instance}}/{{engine}}"),),
            ),
            Panel(
                "Batch sizes",
                "How many decoder steps had how many windows.",
                ((increase("asr_engine_batch_size_bucket", "le"), "{{le}}"),),
                kind="heatmap",
            ),
            Panel(
                "Tokens and steps",
                "Tokens that were generated, and decoder steps that it took.",
                (
                    (rate("asr_engine_tokens_total"), "tokens"),
                    (rate("asr_engine_batch_size_count"), "steps"),
                ),
                "cps",
            ),
        ),
    ),
    Row(
        "Slots and queue",
        (
            Panel(
                "Slots",
                "Windows that hold a slot, and how many could.",
                (
                    (total(select("asr_engine_running"), "instance, engine"), "used, {{instance}}/{{engine}}"),
                    (total(select("asr_engine_slots"), "instance, engine"), "there are, {{instance}}/{{engine}}"),
                ),
            ),
            Panel(
                "Windows that wait",
                "For a slot. A long recording has several.",
                ((total(select("asr_engine_waiting"), "instance, engine"), "{{instance}}/{{engine}}"),),
            ),
            Panel(
                "Time in the queue",
                "How long a request's slowest window waited for a slot, and how long it took to a first token.",
                tuple(
                    (quantile(part, "asr_request_stage_seconds", f'stage="{stage}"'), f"{stage}, p{part * 100:.0f}")
                    for stage in ("queue", "first_token")
                    for part in (0.5, 0.95)
                ),
                "s",
            ),
        ),
    ),
    Row(
        "Work",
        (
            Panel(
                "Encoder frames",
                "Of audio, and all that were computed.",
                ((rate("asr_engine_encoder_frames_total", by="kind"), "{{kind}}"),),
                "cps",
            ),
            Panel(
                "Real-time factor",
                "Processing time / audio time of each request. Above 1, transcribing takes longer than speaking.",
                tuple((quantile(part, "asr_rtf"), f"p{part * 100:.0f}") for part in (0.5, 0.95)),
            ),
            Panel(
                "Stages of the engine, on average",
                "Of each request's slowest window.",
                (
                    (
                        mean("asr_request_stage_seconds", 'stage=~"queue|encode|generation|align"', "stage"),
                        "{{stage}}",
                    ),
                ),
                "s",
                stacked=True,
            ),
        ),
    ),
    Row(
        "Memory and trouble",
        (
            Panel(
                "Memory of the device",
                "What the engine holds, what of it is the model with its caches, and what there is.",
                (
                    (total(select("asr_engine_memory_bytes"), "instance, engine"), "held, {{instance}}/{{engine}}"),
                    (total(select("asr_model_memory_bytes"), "instance, engine"), "model, {{instance}}/{{engine}}"),
                    (
                        total(select("asr_engine_memory_total_bytes"), "instance, engine"),
                        "there is, {{instance}}/{{engine}}",
                    ),
                ),
                "bytes",
            ),
            Panel(
                "Output that was stopped or has no times",
                "loop and budget: runaway outputs. unaligned: windows whose words have no times.",
                (
                    (rate("asr_guard_hits_total", by="kind"), "{{kind}}"),
                    (rate("asr_unaligned_windows_total"), "unaligned"),
                ),
                "cps",
            ),
            Panel(
                "Restarts",
                "Engines that died and were started again.",
                (
                    (
                        increase("asr_engine_restarts_total", "instance, engine"),
                        "{{instance}}/{{engine}}",
                    ),
                ),
            ),
        ),
    ),
)
