"""`asr-service live`: the microphone, a file or a pipe, transcribed while it is heard by a service that runs.

Owns the client of /v1/realtime, where its audio comes from, and how text is shown. Must not know the service from
inside: it speaks its WebSocket, as anybody else would.
"""
