"""Datasets as labelled sessions of streams, and the recording format's way in and out of them."""
