"""The side that makes proofs: trees, tiles and notes. What checks them is batpak.proof."""
