"""Data: transitions on disk (tfds), worlds that produce them, tokenizers, batches (grain)."""
