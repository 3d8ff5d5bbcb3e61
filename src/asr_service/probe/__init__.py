"""`asr-service probe`: asks a service that runs, as a caller from outside would, whether it is well.

Owns the sample, what counts as well, and the command. Must not know the service from inside: it speaks HTTP, and
imports little, since it is started every few seconds.
"""
