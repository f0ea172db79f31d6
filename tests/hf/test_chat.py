"""Rendered conversations and their ids are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

import siltstone as st
from siltstone.hf import import_run
from siltstone.inference.chat import Turns

from .tiny import saved, transformers

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<bos>system\\nBe kind<eos>\\n' }}{% endif %}"
        "{{ '<bos>' + message['role'] + '\\n' + message['content'] + '<eos>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<bos>assistant\\n' }}{% endif %}"
    ),
    "headers": (
        "{%- set ns = namespace(first=true) -%}\n{{- bos_token }}\n{%- for m in messages %}\n"
        "    {{- '<pad>' + m['role'] + '<pad>\\n\\n' + m['content'] | trim + eos_token }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<pad>assistant<pad>\\n\\n' }}\n{%- endif %}\n"
    ),
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_ids_are_those_of_transformers(template: str, tmp_path: Path) -> None:
    source = saved("llama", tmp_path / "hf")
    (source / "chat_template.jinja").write_text(template, "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(source)
    lm, tok = st.load(import_run(source, tmp_path / "run"))
    said = [("the cat", "and the dog"), ("  and?\nthe rat\n", "yes")]
    messages, turns, ids = [], Turns(tok), []
    for i, (user, answer) in enumerate(said):
        ids += turns.next(user) if i else turns.first(user)
        messages.append({"role": "user", "content": user})
        assert ids == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        ids += tok.encode(answer)
        messages.append({"role": "assistant", "content": answer})
    chat = st.Chat(st.Session(lm, tok))
    "".join(chat.turn("the cat", max_new_tokens=3))
    assert chat.session.position <= len(turns.first("the cat")) + 3
