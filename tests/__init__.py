"""Tests of Siltstone."""
