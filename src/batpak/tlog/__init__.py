"""A transparency log's own side of proofs: trees, tiles, signed notes, and what a witness does.

Pure: bytes and hashes in, bytes and hashes out. Who reads, keeps and publishes them is above.
"""
