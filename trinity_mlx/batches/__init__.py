"""Batches: many transcripts from a file, one a line, and a record for each, in order and in bounded memory."""
