"""The models and sessions of tests/inference, for the commands that read and write them."""

from tests.inference.conftest import make_model, model, run, same, session, tok

__all__ = ["make_model", "model", "run", "same", "session", "tok"]
