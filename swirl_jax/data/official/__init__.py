"""Official benchmarks' files, made into lines of transitions: docs/worlds/official.md."""
