"""What is on disk: identity, segments, records, tail hint, recovery, the writer.

Knows nothing of projections, wires or users. Format: docs/format.md.
"""
