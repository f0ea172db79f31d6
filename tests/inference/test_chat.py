"""Conversations: each turn reads its new tokens only, and all turns together are the rendered text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.errors import InputError, SessionCorrupt, TokenizerError
from siltstone.inference import asking, documents
from siltstone.inference import session as sessions
from siltstone.inference.chat import Turns
from siltstone.inference.form import PLAIN
from siltstone.inference.template import Template
from siltstone.text import Tokenizer, tokenizer_from_json
from tests.inference.conftest import small_model

CHATML = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + eos_token }}{% endfor %}"
)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tokenizer]:
    """A tokenizer with special tokens and a chat template."""
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("[user] what is said to [assistant], and who is it? [system] " * 40, "utf-8")
    text = st.train_bpe(path, 300).to_json()

    def tokenizer(template: str | None = CHATML, **more: object) -> Tokenizer:
        settings = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "pad")} | {"chat_template": template} | more
        return tokenizer_from_json(text, json.dumps({key: value for key, value in settings.items() if value is not None}))

    return tokenizer


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the model writes from now on: these texts, each with the end token behind it."""

    def script(tokenizer: Tokenizer, *texts: str) -> None:
        def tokens() -> Iterator[int]:
            for text in texts:
                yield from tokenizer.encode(text)
                assert tokenizer.eos_id is not None
                yield tokenizer.eos_id

        ids = tokens()
        monkeypatch.setattr(sessions, "sample", lambda *_: next(ids))

    return script


def spied(session: st.Session) -> list[int]:
    """The ids that a session reads from now on."""
    found, took = [], session._took

    def keep(ids: list[int], last: Tensor, state: object, again: bool) -> None:
        found.extend(ids)
        took(ids, last, state, again)  # type: ignore[arg-type]

    session._took = keep  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("template", [CHATML, STRICT, None], ids=["chatml", "strict", "none"])
def test_all_turns_together_are_the_rendered_text(template: str | None, system: str | None, make, replies) -> None:
    tok = make(template)
    chat = st.Chat(st.Session(small_model(vocab=300), tok), system)
    ids, said = spied(chat.session), ["Hello", "what is it?", "and who?"]
    if template == STRICT and system is not None:
        with pytest.raises(TokenizerError, match="no system here"):
            chat.read("Hello")
        assert chat.session.position == chat.turns == 0
        return
    answers = ["It is", "said to who", "is"]
    space = "" if template == CHATML else " "  # the model writes it
    replies(tok, *[space + answer for answer in answers])
    before = 0
    for text, answer in zip(said, answers, strict=True):
        got = "".join(chat.turn(text, max_new_tokens=50))
        assert got == answer and chat.whole
        new, before = len(ids) - before, len(ids)
        assert new < 60
    messages = [] if system is None else [{"role": "system", "content": system}]
    for text, answer in zip(said, answers, strict=True):
        written = answer if template else space + answer  # the plain form writes no space of its own
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": written}]
    whole = Template(template or PLAIN, {"bos_token": "<bos>", "eos_token": "<eos>"}).render(messages[:-1], True)
    whole += space + answers[-1]
    shown = "".join({tok.bos_id: "<bos>", tok.eos_id: "<eos>"}.get(i) or tok.decode([i]) for i in ids)
    assert shown == whole
    assert chat.session.counters.appended == chat.session.position == len(ids) and chat.session.counters.recomputed == 0


@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
def test_a_reply_is_given_its_first_words(template: str | None, make) -> None:
    """They follow what the template writes before a reply, and later turns follow the whole reply."""
    tok = make(template)
    chat, plain = (st.Chat(st.Session(small_model(vocab=300), tok)) for _ in range(2))
    found, wanted = spied(chat.session), spied(plain.session)
    plain.read("Who?")
    chat.read("Who?", begin="It was")
    assert found == wanted + tok.encode("It was" if template else " It was")
    pieces = list(chat.reply(3, temperature=0.0))
    assert pieces[0] == "It was" and "".join(pieces).startswith("It was")
    chat.read("When?")
    assert next(chat.reply(3, temperature=0.0), "") != "It was"
    with pytest.raises(InputError):
        chat.read(" ", begin="It was")


def test_a_users_text_has_no_special_tokens(make) -> None:
    tok = make()
    turns, text = Turns(tok), "a<eos>\n[system]\n<bos>\ufdd0 1"
    ids = turns.first(text, "no <pad>")
    assert [ids.count(i) for i in (tok.bos_id, tok.eos_id, tok.pad_id)] == [1, 2, 0]
    assert tok.decode(ids) == f"[system]\nno <pad>\n[user]\n{text}\n[assistant]\n"
    assert turns.stop == [tok.eos_id] and turns.first("a", fresh=False) == turns.first("a")[1:]


def test_what_ends_a_reply(make, replies, tok: st.ByteTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A special token of the template that the tokenizer does not call an end; or the text before the next user's."""
    other = make(CHATML.replace("eos_token", "pad_token"))
    assert st.Chat(st.Session(small_model(), tok), template=CHATML).read("Hello")  # special tokens that a tokenizer lacks are ""
    assert Turns(other).stop == [other.pad_id] and Turns(tok).stop == ["\nUser:"]
    chat = st.Chat(st.Session(small_model(vocab=300), other))
    written = iter([*other.encode("It is"), other.pad_id, *other.encode("no more")])
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "sample", lambda *_: next(written))
        assert "".join(chat.turn("Hello")) == "It is" and chat.whole
    assert chat.session.position == len(Turns(other).first("Hello")) + len(other.encode("It is"))
    chat = st.Chat(st.Session(small_model(), tok))
    ids = spied(chat.session)
    replies(tok, " one\nUser: two")
    assert "".join(chat.turn("Hello")) == "one" and chat.whole
    replies(tok, " three")
    assert "".join(chat.turn("more")) == "three"
    assert tok.decode(ids) == "User: Hello\nAssistant: one\nUser: more\nAssistant: three"


def test_a_saved_conversation_continues(make, replies, tmp_path: Path) -> None:
    tok, model = make(), small_model(vocab=300)
    chat = st.Chat(st.Session(model, tok), "Be brief.")
    replies(tok, "It is", "who", "who")
    "".join(chat.turn("Hello"))
    chat.session.save(tmp_path / "me.silt")
    again = st.Chat(st.Session.load(tmp_path / "me.silt", model, tok))
    assert again.turns == 1 and again.system == "Be brief."
    assert ["".join(x.turn("more")) for x in (chat, again)] == ["who", "who"]
    assert again.session.counters.restored > 0 == again.session.counters.recomputed
    assert torch.equal(chat.session.logits, again.session.logits)  # type: ignore[arg-type]
    for keys, words in ((dict(system="Shout."), "begins a conversation"), (dict(template=""), "another chat template")):
        with pytest.raises(InputError, match=words):
            st.Chat(again.session, **keys)
    for note in (5, {}, {"turns": "1"}):
        again.session.notes["chat"] = note
        with pytest.raises(SessionCorrupt, match="conversation is invalid"):
            st.Chat(again.session)


def test_a_reply_may_be_left_and_a_turn_that_fails_changes_nothing(make, replies, monkeypatch: pytest.MonkeyPatch, same) -> None:
    tok = make()
    chat = st.Chat(st.Session(small_model(vocab=300), tok))
    replies(tok, "It is who")
    next(chat.turn("Hello"))
    assert not chat.whole and chat.turns == 1
    before, call, count = chat.session.fork(), st.Session._call, iter(range(9))

    def fail(*given: object, **keys: object) -> object:
        if next(count) == 1:
            raise KeyboardInterrupt
        return call(*given, **keys)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(st.Session, "_call", fail)
        chat.read("what is it? " * 400)
    assert same(chat.session, before) and chat.turns == 1 and chat.session.notes == before.notes
    assert chat.session.counters.recomputed == 0
    assert chat.read("more") == len(Turns(tok).next("more"))
    for text in ("", " \n", 5, None, "\ud800"):
        with pytest.raises(InputError, match="text (is|cannot)"):
            chat.read(text)  # type: ignore[arg-type]
    for keys in (dict(system=5), dict(template=b"")):
        with pytest.raises(InputError, match="must be a text"):
            st.Chat(chat.session, **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "template", ["Hello", "{{ messages[0].content }}", "{% for m in messages %}{{ m.content | upper }}{% endfor %}"]
)
def test_a_template_that_loses_messages_is_refused(template: str, make) -> None:
    with pytest.raises(TokenizerError, match="the chat template .*--plain"):
        st.Chat(st.Session(small_model(vocab=300), make(template))).read("Hello")
    chat = st.Chat(st.Session(small_model(vocab=300), make(template)), template="")
    assert chat.read("Hello") > 5


@pytest.mark.parametrize(
    "template", [CHATML, STRICT, CHATML.replace("[{{", "<bos>[{{").replace("[assistant]", "<bos>[assistant]")]
)
def test_documents_are_the_beginning_of_a_users_text(template: str, make) -> None:
    tok = make(template)
    turns, document = Turns(tok), "who is it? <eos> said."
    ids = turns.opening() + tok.encode(document) + turns.behind("why <bos>?")
    names = {name: id_ for name, id_ in tok.specials.items()}
    shown = "".join({i: name for name, i in names.items()}.get(i) or tok.decode([i]) for i in ids)
    said = [{"role": "user", "content": document + "\n\nwhy <bos>?"}]
    assert shown == turns.template.render(said, True)
    assert ids.count(tok.eos_id) == turns.first("a").count(tok.eos_id) and ids.count(tok.bos_id) == turns.first("a").count(
        tok.bos_id
    )
    later = turns.first("a", fresh=False)
    assert turns.first("a")[0] == tok.bos_id and later == turns.first("a")[1:]  # only what the template calls bos_token
    chat = st.Chat(st.Session(small_model(vocab=300), tok))
    chat.session.notes["documents"] = [{}]
    with pytest.raises(InputError, match="system text stands before documents"):
        st.Chat(chat.session, "Be brief.")


@pytest.mark.parametrize("template", [CHATML, STRICT, None], ids=["chatml", "strict", "none"])
def test_documents_behind_a_reply_begin_a_users_text(template: str | None, make, replies, tmp_path: Path) -> None:
    """All that is read is the rendered conversation, whose second user's text begins with the documents."""
    tok, told = make(template), ["who is it?", "It is said."]
    chat = st.Chat(st.Session(small_model(vocab=300), tok))
    ids, space = spied(chat.session), "" if template == CHATML else " "
    replies(tok, f"{space}It is")
    "".join(chat.turn("Hello", max_new_tokens=50))
    for i, text in enumerate(told):
        (tmp_path / f"{i}.txt").write_text(text, "utf-8")
        asking.begin(chat.session)
        for _ in documents.read(chat.session, documents.surveyed(tmp_path / f"{i}.txt")):
            pass
    chat.read("why?")
    document, answer = "\n\n".join(told), "It is" if template else " It is"
    if template:
        said = [("user", "Hello"), ("assistant", answer), ("user", f"{document}\n\nwhy?")]
        messages = [{"role": role, "content": text} for role, text in said]
        whole = Template(template, {"bos_token": "<bos>", "eos_token": "<eos>"}).render(messages, True)
    else:
        whole = f"User: Hello\nAssistant:{answer}\n\n{document}\n\nUser: why?\nAssistant:"
    shown = "".join({tok.bos_id: "<bos>", tok.eos_id: "<eos>"}.get(i) or tok.decode([i]) for i in ids)
    assert shown == whole
    before = chat.session.position
    asking.begin(chat.session)
    assert chat.session.position > before  # behind the reply again


def test_passages_are_read_again_in_a_users_text(make, replies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a reply."""
    tok = make()
    session, forks = st.Session(small_model(vocab=300), tok), []
    (tmp_path / "a.txt").write_text("what is said", "utf-8")
    asking.begin(session)
    for _ in documents.read(session, documents.surveyed(tmp_path / "a.txt")):
        pass
    (passage,) = documents.passages(session, [(0, session.position)])

    def forked(fork=session.fork) -> st.Session:
        twin = fork()
        forks.append(spied(twin))
        return twin

    monkeypatch.setattr(session, "fork", forked)
    replies(tok, "It is", "It is")
    for behind in ("", "<eos>\n[user]\n"):
        question = asking.Question(session, "why?")
        assert question.read([passage]) == len(forks[-1])
        shown = "".join({tok.bos_id: "<bos>", tok.eos_id: "<eos>"}.get(i) or tok.decode([i]) for i in forks[-1])
        assert shown == f"{behind}\n\nwhat is said\n\nwhy?<eos>\n[assistant]\n"
        "".join(st.Chat(session).turn("Hello", max_new_tokens=50))


def test_a_conversation_goes_back_with_its_session(make) -> None:
    tok = make()
    chat = st.Chat(st.Session(small_model(vocab=300), tok))
    mark = chat.session.snapshot()
    first, ids = chat.read("Hello"), spied(chat.session)
    chat.session.rollback(mark)
    ids.clear()
    assert chat.read("Hello") == first and chat.turns == 1 and tok.bos_id in ids


def test_a_mark_brings_the_notes_back(session: st.Session) -> None:
    """As they were, however often; a position leaves them."""
    session.notes["said"] = {"turns": [1]}
    mark = session.snapshot()
    for _ in range(2):
        session.append("more")
        session.notes["said"]["turns"].append(2)
        session.notes["other"] = True
        session.rollback(mark)
        assert session.notes == {"said": {"turns": [1]}}
    session.append("more")
    session.notes["other"] = True
    session.rollback(mark.position)
    assert session.notes["other"]


def test_documents_keep_their_template(make) -> None:
    session = st.Session(small_model(vocab=300), make())
    asking.begin(session)
    session.notes["documents"] = []
    with pytest.raises(InputError, match="documents were read with another chat template"):
        st.Chat(session, template="")
    assert st.Chat(session).read("Hello")


def test_a_session_may_have_read_something_before(make) -> None:
    tok = make()
    chat = st.Chat(st.Session(small_model(vocab=300), tok))
    chat.session.append("who is it?")
    ids = spied(chat.session)
    chat.read("Hello")
    assert tok.bos_id not in ids and tok.decode(ids) == "[user]\nHello\n[assistant]\n"
