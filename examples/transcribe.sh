#!/bin/sh
# Transcribe a recording with curl, in all the ways that the service has.
#
#   examples/transcribe.sh recording.mp3 [language]
#
# ASR_URL is the address of the service, http://127.0.0.1:8000 if it is not set.
set -eu

if [ $# -lt 1 ] || [ ! -f "$1" ]; then
  echo "usage: $0 RECORDING [LANGUAGE]" >&2
  exit 2
fi
recording=$1
language=${2:-auto}
url=${ASR_URL:-http://127.0.0.1:8000}

# --fail-with-body: exit code 22 on an error, with the problem document on stdout.
post() {
  curl --silent --show-error --fail-with-body "$@"
  echo
}

echo "== A form: text, times and timings as JSON"
post --form "file=@$recording" --form "language=$language" "$url/transcribe"

echo "== The recording as the body, options in the query"
post --header 'Content-Type: application/octet-stream' --data-binary "@$recording" "$url/transcribe?language=$language"

echo "== Subtitles"
post --form "file=@$recording" --form "language=$language" --form response_format=srt "$url/transcribe"

echo "== Each stretch of speech as soon as it is known, a line of JSON each, and the whole at the end"
post --no-buffer --header 'Accept: application/x-ndjson' \
  --form "file=@$recording" --form "language=$language" "$url/transcribe"

echo "== The same as server-sent events"
post --no-buffer --header 'Accept: text/event-stream' \
  --form "file=@$recording" --form "language=$language" "$url/transcribe"

echo "== Two recordings in one request, answered in their order"
post --form "file=@$recording" --form "file=@$recording" --form "language=$language" "$url/transcribe"

echo "== As OpenAI's API has it"
post --form "file=@$recording" --form model=whisper-1 --form response_format=verbose_json "$url/v1/audio/transcriptions"
