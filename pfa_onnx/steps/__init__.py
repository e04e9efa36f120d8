"""The steps of the story that `pipeline` tells: measure, decide, apply, compare. They join the two halves."""
