"""Chat templates of strangers: rendered as transformers renders them, in a sandbox, within limits."""

from __future__ import annotations

import time

import pytest

from siltstone.errors import TokenizerError
from siltstone.inference.template import LONGEST, SOURCE, Template

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " hi <b> "}]
DOUBLED = "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
NESTED = "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m.content | trim }}{% endfor %}",
            "<s><system>Be brief.<user>hi <b>",
        ),
        ("{% for m in messages %}\n  {% if loop.last %}\n{{ m.content }}|\n  {% endif %}\n{% endfor %}", " hi <b> |\n"),
        ("{% if add_generation_prompt %}{{ 'a' ~ 'b' + 'c' * 2 }}{% endif %}", "abcc"),
        ("{% for m in messages %}{% if m.role == 'user' %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
        ("{% if tools is not none or documents %}tools{% endif %}{{ 'none' if tools is none }}", "none"),
        (
            "{% for m in messages[::-1] %}{{ (messages | length - 1) - loop.index0 }}{{ m.content.endswith('> ') }},{% endfor %}",
            "1True,0False,",
        ),
        ("{% generation %}{{ messages[1].content.strip() }}{% endgeneration %}", "hi <b>"),
        (
            "{{ messages[0] | tojson }}{{ ['é', 1] | tojson(indent=2) }}",
            '{"role": "system", "content": "Be brief."}[\n  "é",\n  1\n]',
        ),
        (
            "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}{{ messages | map(attribute='role') | join(', ') }}",
            "[1]system, user",
        ),
        ("{{ 'a-b'.replace('-', '+') | replace('a', 'c') }}{{ '%03d' % 7 }}{{ strftime_now('%%') }}", "c+b007%"),
        ("{% set content = messages[1].content %}{{ content.split('<')[0] }}{{ missing }}", " hi "),
    ],
)
def test_what_a_template_writes(source: str, text: str) -> None:
    assert Template(source, {"bos_token": "<s>"}).render(SAID, True) == text


HOSTILE = {
    "unfinished": "{% for",
    "no such filter": "{{ messages | center(9) }}",
    "division": "{{ 1 / 0 }}",
    "missing message": "{{ messages[3].content.text }}",
    "refusal": "{{ raise_exception('no system here') }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "functions": "{{ namespace.__init__.__globals__ }}",
    "a change of the messages": "{{ messages.append(1) }}",
    "a change of a message": "{{ messages[0].update(content='x') }}",
    "a file": "{% include '/etc/passwd' %}",
    "another template": "{% import 'os' as os %}",
    "rounds": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a large range": "{{ range(1000000000) | list }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a branching recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "repeated text": "{{ 'a' * 10000000000 }}",
    "repeated list": "{{ ([1] * 10000000000) | length }}",
    "powers": "{{ 9 ** 9 ** 9 ** 9 }}",
    "doubled by ~": DOUBLED + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubled by +": DOUBLED + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubled by a block": DOUBLED + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "doubled by join": DOUBLED + "{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}",
    "doubled by a method": DOUBLED + "{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "doubled by replace": DOUBLED + "{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "doubled by a filter": DOUBLED + "{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
    "doubled numbers": "{% set ns = namespace(x=9) %}{% for i in range(999) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "nested lists": NESTED + "{{ ns.x }}",
    "nested lists as text": NESTED + "{{ ns.x | string }}",
    "nested lists as JSON": NESTED + "{{ ns.x | tojson }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "width of another kind": "{{ '{:1000000000}'.format(1) }}",
    "padding": "{{ 'a'.ljust(1000000000) }}",
    "long": "a" * (SOURCE + 1),
    "deep": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_broken_or_hostile_template_is_a_clear_error(source: str) -> None:
    began, before = time.process_time(), [dict(x) for x in SAID]
    with pytest.raises(TokenizerError, match="the chat template .*--plain") as error:
        Template(source).render(SAID, True)
    assert len(str(error.value)) < 500 and time.process_time() - began < 5 and before == SAID


def test_limits_leave_room_for_long_conversations() -> None:
    text = "a" * (2 * LONGEST)
    assert Template("{{ messages[0].content ~ '!' }}").render([{"role": "user", "content": text}], False) == text + "!"
