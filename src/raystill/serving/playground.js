
"use strict";
// Whatever a model says reaches the page as a text node: nothing here parses HTML.

const KEY = "raystill-key";
const REFERENCE = "\u0000reference"; // no model's name
const MOST_CELLS = 4e6; // of a table of differences: two answers of 2,000 words
const WORD = /[\p{L}\p{N}_]+\s*|[^\p{L}\p{N}_\s]\s*|\s+/gu;
const THIN = "\u202f";
const SAID = {
  404: "This model is not served any more; reload the page.",
  413: "The prompt is too long for this endpoint.",
  429: "Too many requests just now.",
  503: "The model is busy or still starting.",
};

const $ = (id) => document.getElementById(id);
const page = { settings: null, models: [], rows: [], row: null, earlier: [], answers: [], asked: null, stop: null, voted: true };

function make(tag, properties = {}, ...inside) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inside);
  return element;
}

/* ---- the endpoint ---- */

class Problem extends Error {}

async function api(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, credentials: "omit" };
  const response = await fetch(path, options);
  if (response.status === 401) {
    await askForKey(key);
    return api(path, body, signal);
  }
  if (!response.ok) throw new Problem(await refusal(response));
  return response;
}

const json = async (path, body) => (await api(path, body)).json();

async function refusal(response) {
  const said = await response.json().then((body) => body.error?.message, () => null);
  const wait = response.headers.get("Retry-After");
  const first = SAID[response.status] ?? (said ? "" : `The endpoint answered with status ${response.status}.`);
  return [first, said && `${said.replace(/\.$/, "")}.`, wait && `Try again in ${wait}${THIN}s.`].filter(Boolean).join(" ");
}

function words(error) {
  if (error.name === "AbortError") return "Stopped.";
  return error instanceof Problem ? error.message : "No connection to the endpoint. Is it still running?";
}

let asking = null;
function askForKey(refused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = $("key");
    $("refused").hidden = !refused;
    $("given").value = "";
    dialog.onclose = () => {
      asking = null;
      const given = $("given").value.trim();
      if (!given) return reject(new Problem("This endpoint asks for a key; ask again to give one."));
      sessionStorage.setItem(KEY, given);
      resolve();
    };
    dialog.oncancel = () => { $("given").value = ""; };
    dialog.showModal();
  });
  return asking;
}

async function* chunks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Problem("The answer broke off.");
    const lines = (left + value).split("\n");
    left = lines.pop();
    for (const line of lines.filter((l) => l.startsWith("data:"))) {
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(`The answer broke off: ${chunk.error.message ?? chunk.error}`);
      yield chunk;
    }
  }
}

/* ---- one answer ---- */

const role = (model) => (model === "teacher" ? "teacher" : model.endsWith("baseline") ? "baseline" : "student");

class Answer {
  constructor(model, place, blind) {
    Object.assign(this, { model, place, blind, text: "", thoughts: "", pieces: 0, usage: null, first: null, latest: null, whole: false });
    this.title = make("h2", { textContent: blind ? `Answer ${place}` : model });
    this.said = make("p", { className: "said" });
    this.thought = make("p", { className: "thought" });
    this.problem = make("p", { className: "problem" });
    this.figures = make("dl", { className: "figures" });
    this.vote = make("button", { type: "button", className: "vote", disabled: true, onclick: () => vote(place) }, "Better ");
    this.vote.append(make("kbd", { textContent: place }));
    this.vote.setAttribute("aria-keyshortcuts", place);
    const body = make("div", {}, this.thought, this.said, this.problem);
    this.element = make("article", { className: blind ? "answer" : `answer ${role(model)}` }, this.title, body, this.figures, this.vote);
    this.element.setAttribute("aria-busy", "true");
    this.show();
  }

  async listen(body, signal) {
    this.started = performance.now();
    try {
      for await (const chunk of chunks(await api("/v1/chat/completions", body, signal))) this.add(chunk);
      this.whole = true;
    } catch (error) {
      this.problem.textContent = words(error);
    }
    this.element.setAttribute("aria-busy", "false");
    this.show();
    $("told").append(make("p", { textContent: `${this.title.textContent}: ${this.text || this.problem.textContent}` }));
  }

  add(chunk) {
    this.usage = chunk.usage ?? this.usage;
    const delta = chunk.choices?.[0]?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    if (!delta.content && !thought) return;
    this.latest = performance.now();
    this.first ??= this.latest;
    this.pieces += 1;
    this.thoughts += thought;
    this.text += delta.content ?? "";
    if (this.blind) return; // who writes faster would tell who writes
    this.thought.append(thought);
    this.said.append(delta.content ?? "");
    this.show();
  }

  write() {
    this.thought.textContent = this.thoughts;
    this.said.textContent = this.text;
  }

  show() {
    if (this.blind) return;
    const tokens = this.usage?.completion_tokens ?? this.pieces;
    const between_s = (this.latest - this.first) / 1000;
    const price = page.settings.prices[this.model];
    const shown = {
      "First token": this.first && seconds((this.first - this.started) / 1000),
      "Tokens/s": tokens > 1 && between_s > 0 && three((tokens - 1) / between_s),
      Tokens: tokens || null,
      Time: this.first && seconds((this.latest - this.started) / 1000),
      ...(price && { Cost: tokens && money(tokens * price) }),
    };
    this.figures.replaceChildren(
      ...Object.entries(shown).map(([name, value]) =>
        make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value || "–" }))),
    );
  }

  reveal() {
    this.blind = false;
    this.title.replaceChildren(this.model);
    this.element.className = `answer ${role(this.model)}`;
    this.show();
  }

  paint(others, tag) {
    this.said.replaceChildren(...marked(this.text, others, tag));
  }
}

/* ---- differences ---- */

// The text in pieces; words that are in none of the others, in the order of the longest common subsequence, are marked.
function marked(text, others, tag) {
  const words = text.match(WORD) ?? [];
  const shared = others.map((other) => common(words, other.match(WORD) ?? []));
  if (!shared.length || shared.includes(null)) return [text];
  const pieces = [];
  words.forEach((word, i) => {
    const differs = shared.every((found) => !found.has(i));
    const last = pieces.at(-1);
    if (last?.differs === differs) last.text += word;
    else pieces.push({ text: word, differs });
  });
  return pieces.flatMap(({ text: all, differs }) => {
    const said = all.trimEnd();
    return differs ? [make(tag, { textContent: said }), all.slice(said.length)] : [all];
  });
}

// Indices of the words of `a` that a longest common subsequence with `b` holds; null when there are too many words.
function common(a, b) {
  if (a.length * b.length > MOST_CELLS) return null;
  const [left, right] = [a, b].map((words) => words.map((word) => word.trim()));
  const width = b.length + 1;
  const length = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i * width + j] = left[i] === right[j]
        ? length[(i + 1) * width + j + 1] + 1
        : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const found = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (left[i] === right[j]) { found.add(i); i++; j++; }
    else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
    else j++;
  }
  return found;
}

function markAll() {
  const against = $("against").value;
  const whole = page.answers.filter((a) => a.text);
  const base = against === REFERENCE ? page.asked.reference : whole.find((a) => a.model === against)?.text;
  for (const answer of whole) {
    if (base === undefined) answer.paint([], "ins");
    else if (answer.model === against) answer.paint(whole.filter((a) => a !== answer).map((a) => a.text), "del");
    else answer.paint([base], "ins");
  }
}

/* ---- asking ---- */

// A model's view of a conversation: its own system prompt and examples, unless the page says another system prompt.
function view(model, messages) {
  const { system, examples = [] } = page.settings.views[model] ?? {};
  const said = $("system").value.trim() || system;
  const head = said ? [{ role: "system", content: said }] : messages.filter((m) => m.role === "system");
  const shots = examples.flatMap((e) => [{ role: "user", content: e.user }, { role: "assistant", content: e.assistant }]);
  return [...head, ...shots, ...messages.filter((m) => m.role !== "system")];
}

function request(model, messages) {
  const sampling = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed"])
    if ($(name).value !== "") sampling[name] = Number($(name).value);
  const options = { include_usage: true, continuous_usage_stats: true };
  return { model, messages: view(model, messages), stream: true, stream_options: options, ...sampling };
}

async function ask() {
  if (!page.settings) return start();
  const chosen = page.models.filter((m) => $("models").querySelector(`[value="${CSS.escape(m)}"]`).checked);
  problem(chosen.length ? "" : "Choose a model first.");
  if (!chosen.length) return;
  const blind = $("blind").checked && chosen.length > 1;
  const messages = [...page.earlier, { role: "user", content: $("prompt").value }];
  page.asked = { messages, row: page.row?.id ?? null, reference: page.row?.reference ?? undefined, blind };
  page.stop = new AbortController();
  const answers = page.answers = (blind ? shuffled(chosen) : chosen).map((model, i) => new Answer(model, i + 1, blind));
  for (const answer of answers) answer.vote.hidden = answers.length < 2;
  $("answers").replaceChildren(...answers.map((a) => a.element));
  $("below").hidden = true;
  $("told").replaceChildren();
  $("answers").focus({ preventScroll: true }); // digits are votes from here on
  busy(true);
  const listen = (a) => a.listen(request(a.model, messages), page.stop.signal);
  if ($("in-turn").checked) for (const answer of answers) await listen(answer);
  else await Promise.all(answers.map(listen));
  settle();
}

function settle() {
  busy(false);
  const { reference, blind } = page.asked;
  const whole = page.answers.filter((a) => a.whole);
  page.voted = whole.length < 2;
  for (const answer of page.answers) {
    if (blind) answer.write();
    if (blind && page.voted) answer.reveal();
    answer.vote.disabled = page.voted || !answer.whole;
  }
  $("tie").disabled = page.voted;
  $("tie").hidden = page.answers.length < 2;
  $("tie").setAttribute("aria-pressed", "false");
  $("reference").hidden = reference === undefined;
  $("reference").lastElementChild.textContent = reference ?? "";
  const bases = [["nothing", ""], ...page.answers.filter((a) => a.whole).map((a) => [a.model, a.model]), ...(reference === undefined ? [] : [["the reference", REFERENCE]])];
  $("against").replaceChildren(...bases.map(([name, value]) => new Option(name, value)));
  $("against").selectedIndex = whole.length > 1 ? 1 : bases.length > 2 ? 2 : 0;
  $("below").hidden = page.answers.length < 2 && reference === undefined;
  $("marking").hidden = blind && !page.voted;
  if (!$("marking").hidden) markAll();
}

function busy(is) {
  $("stop").disabled = !is;
  $("send").disabled = is;
}

function shuffled(values) {
  const left = [...values], drawn = [];
  while (left.length) drawn.push(...left.splice(Math.floor(Math.random() * left.length), 1));
  return drawn;
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/* ---- votes ---- */

async function vote(place) {
  const preferred = place ? page.answers[place - 1] : null;
  if (page.voted || (place && !preferred?.whole)) return;
  page.voted = true;
  for (const button of [$("tie"), ...page.answers.map((a) => a.vote)]) button.disabled = true;
  (preferred?.vote ?? $("tie")).setAttribute("aria-pressed", "true");
  const { messages, row, blind } = page.asked;
  for (const answer of page.answers.filter((a) => a.blind)) answer.reveal();
  $("marking").hidden = false;
  markAll();
  const answers = Object.fromEntries(page.answers.filter((a) => a.whole).map((a) => [a.model, a.text]));
  try {
    tally(await json("/v1/votes", { messages, answers, preferred: preferred?.model ?? null, row, blind }));
    problem("");
  } catch (error) {
    problem(`The vote was not kept. ${words(error)}`);
  }
}

const RANK = ["student", "baseline", "teacher"];

function tally({ votes, blind, pairs }) {
  $("votes").hidden = !votes;
  $("counted").textContent = `${votes} ${votes === 1 ? "vote" : "votes"}, ${blind} with hidden names`;
  $("pairs").replaceChildren(...pairs.map(pair));
}

function pair({ left, right, left_better, ties, right_better, share, interval }) {
  const turned = RANK.indexOf(role(left)) <= RANK.indexOf(role(right));
  const [subject, other] = turned ? [left, right] : [right, left];
  const at = turned ? 1 - share : share;
  const [low, high] = turned ? [1 - interval[1], 1 - interval[0]] : interval;
  const rail = make("span", { className: `rail ${role(subject)}` }, make("i"), make("b"));
  for (const [name, value] of Object.entries({ low, high, at })) rail.style.setProperty(`--${name}`, `${100 * value}%`);
  const name = make("th", { scope: "row", className: role(subject) }, make("b", { textContent: subject }), ` over ${other}`);
  const range = make("small", { textContent: `${Math.round(100 * low)}–${Math.round(100 * high)}` });
  const tied = make("small", { textContent: ties ? `${ties} tied` : "" });
  return make("tr", {}, name, make("td", { className: "range" }, rail),
    make("td", { className: "share" }, `${Math.round(100 * at)}${THIN}%`, range),
    make("td", { className: "count" }, `${left_better + ties + right_better}`, tied));
}

/* ---- numbers, as in the reports ---- */

function three(value) {
  const decimals = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value && value < 0.995 ? String(Number(value.toPrecision(3))) : value.toLocaleString("en", { maximumFractionDigits: decimals });
}

function seconds(value) {
  return value < 1 ? `${three(1000 * value)}${THIN}ms` : `${three(value)}${THIN}s`;
}

function money(value) {
  const text = value >= 1 ? value.toFixed(2) : value >= 1e-4 ? String(Number(value.toPrecision(2))) : value.toExponential(1);
  return `${text} ${page.settings.currency}`;
}

/* ---- rows ---- */

function choose(index) {
  page.row = page.rows[index] ?? null;
  const messages = page.row?.messages ?? [];
  page.earlier = messages.slice(0, -1);
  const turns = page.earlier.filter((m) => m.role !== "system");
  $("earlier").replaceChildren(...turns.map((m) => make("li", {}, make("b", { textContent: m.role }), m.content)));
  $("earlier").hidden = !turns.length;
  $("prompt").value = messages.at(-1)?.content ?? "";
}

function short(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 90 ? `${line.slice(0, 90)} …` : line;
}

/* ---- start ---- */

function offer(models) {
  page.models = models;
  const boxes = models.map((name) => {
    const first = models.length <= 2 || role(name) !== "baseline";
    return make("label", { className: `model ${role(name)}` }, make("input", { type: "checkbox", value: name, checked: first }), name);
  });
  $("models").replaceChildren($("models").firstElementChild, ...boxes);
}

async function start() {
  problem("");
  try {
    offer((await json("/v1/models")).data.map((m) => m.id).sort((a, b) => RANK.indexOf(role(b)) - RANK.indexOf(role(a))));
    page.settings = await json("/v1/playground");
    for (const [name, value] of Object.entries(page.settings.sampling)) $(name).value = value;
    $("max_tokens").max = page.settings.most_tokens;
    page.rows = await json("/v1/rows");
    const options = page.rows.map((row, i) => new Option(short(row.messages.at(-1).content), i));
    $("rows").replaceChildren(new Option("your own prompt", -1), ...options);
    $("held-out").hidden = !page.rows.length;
    tally(await json("/v1/votes"));
  } catch (error) {
    problem(words(error));
  }
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("stop").addEventListener("click", () => page.stop?.abort());
$("tie").addEventListener("click", () => vote(0));
$("against").addEventListener("change", markAll);
$("rows").addEventListener("change", () => choose(Number($("rows").value)));
$("another").addEventListener("click", () => {
  $("rows").value = Math.floor(Math.random() * page.rows.length);
  choose(Number($("rows").value));
});
$("prompt").addEventListener("input", () => { page.row = null; }); // an edited row is no held-out row
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, select, input:not([type=checkbox])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("send").disabled) $("ask").requestSubmit();
  else if (event.key === "Escape" && !$("key").open) page.stop?.abort();
  else if (/^[0-9]$/.test(event.key) && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) vote(Number(event.key));
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) $("send-key").textContent = "⌘ ⏎";
start();
