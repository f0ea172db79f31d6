"""Each equation by itself: `step` written out, token by token, is what `chunk` computes."""
