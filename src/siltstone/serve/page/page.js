"use strict";
const at = (id) => document.getElementById(id);
const made = (name, text, cls) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text; // text of a model is never read as HTML
  if (cls) node.className = cls;
  return node;
};
const asked = async (path, body) => {
  const given = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const got = await fetch(path, given);
  if (!got.ok) throw new Error((await got.json()).error.message);
  return got;
};
let model = "";
let messages = [];

const figures = async () => {
  const now = await (await asked("/figures")).json();
  model = now.model;
  at("model").textContent = model;
  at("figures").replaceChildren(...Object.entries(now.figures).flatMap(([name, value]) => [made("dt", name), made("dd", value.toLocaleString())]));
};

const tree = async () => {
  const { data } = await (await asked("/sessions")).json();
  const under = new Map();
  const known = new Set(data.map((one) => one.id));
  for (const one of data) {
    const parent = known.has(one.parent) ? one.parent : "";
    under.set(parent, [...(under.get(parent) ?? []), one]);
  }
  const list = (parent) => {
    const all = made("ul");
    for (const one of under.get(parent) ?? []) {
      const item = made("li", `${one.id.slice(0, 13)}… ${one.position.toLocaleString()} tokens`);
      if (under.has(one.id)) item.append(list(one.id));
      all.append(item);
    }
    return all;
  };
  at("tree").replaceChildren(data.length ? list("") : made("p", "None yet."));
};

const send = async (event) => {
  event.preventDefault();
  const text = at("text").value;
  at("send").disabled = true;
  at("state").textContent = "";
  const before = messages;
  const asking = [...before, { role: "user", content: text }];
  const mine = made("li", text, "user");
  const theirs = made("li", "", "assistant");
  at("talk").append(mine, theirs);
  try {
    const body = { model, messages: asking, max_tokens: Number(at("most").value), stream: true, stream_options: { include_usage: true } };
    const reader = (await asked("/v1/chat/completions", body)).body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    let said = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: {")) continue;
        const told = JSON.parse(part.slice(6));
        if (told.error) throw new Error(told.error.message);
        said += told.choices[0]?.delta.content ?? "";
        theirs.textContent = said.trimStart();
        if (told.usage) {
          const reused = told.usage.prompt_tokens_details.cached_tokens;
          theirs.append(made("small", `${reused} tokens reused, ${told.usage.prompt_tokens - reused} read, ${told.usage.completion_tokens} written`));
        }
      }
    }
    if (messages === before) messages = [...asking, { role: "assistant", content: said }]; // otherwise a new one was begun
    if (at("text").value === text) at("text").value = "";
  } catch (error) {
    mine.remove();
    theirs.remove();
    at("state").textContent = error.message;
  }
  at("send").disabled = false;
};

at("ask").addEventListener("submit", send);
at("clear").addEventListener("click", () => { messages = []; at("talk").replaceChildren(); });
const look = () => Promise.all([figures(), tree()]).catch((error) => { at("state").textContent = error.message; });
look();
setInterval(look, 2000);
