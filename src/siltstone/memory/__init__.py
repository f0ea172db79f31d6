"""Update rules: how a write changes the state, and how the state is read. One file a rule."""
