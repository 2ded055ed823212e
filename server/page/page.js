"use strict";
// The page at /: asks /predict and shows what the heads say. All text enters the page as text, never as markup.
// A fragment asks at once: #model=newsgroups&example=sci.space-5699&heads=1&confidence=90

const TOP = 5; // classes of the vote that are shown
const RETRY_SECONDS = 1; // while the models are loading

const WORDS = {
  400: "The server cannot use this.",
  401: "The server wants a key.",
  403: "The server does not allow this.",
  404: "The server does not have this. Reload the page.",
  408: "Sending took too long.",
  413: "That is too big for this server.",
  415: "That is neither a picture nor a text that this server reads.",
  429: "The server is too busy just now.",
  500: "The server failed.",
  503: "The server is not ready.",
  504: "The answer took too long.",
};
const STOPPED = {
  all: (used, total) => (total === 1 ? "The only head answered." : `All ${total} heads voted.`),
  requested: (used, total) => `${count(used, "head")} of ${total} voted, as you asked.`,
  early_exit: (used, total) => `The vote was sure enough after ${count(used, "head")} of ${total}.`,
  load: (used, total) => `The server was busy, so only ${count(used, "head")} of ${total} voted.`,
  deadline: (used, total) => `Time was short, so only ${count(used, "head")} of ${total} voted.`,
};
const STEPS = [
  ["decode", "decoding"],
  ["queue", "waiting"],
  ["compute", "computing"],
  ["way", "network and browser"],
];

const at = (id) => document.getElementById(id);
const state = { models: [], examples: {}, model: null, input: null, running: null, key: "" };

/* Small things. */

function make(name, content = "", kind = "") {
  const element = document.createElement(name);
  element.textContent = content;
  if (kind) element.className = kind;
  return element;
}

const count = (number, thing, things = `${thing}s`) => `${number} ${number === 1 ? thing : things}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const time = (milliseconds) => `${milliseconds.toFixed(milliseconds < 9.95 ? 2 : 1)} ms`;

function bar(share, kind = "") {
  const cell = make("td");
  const fill = make("span", "", kind);
  fill.style.width = `${100 * Math.min(1, share)}%`;
  cell.appendChild(make("div", "", "bar")).append(fill);
  cell.setAttribute("aria-hidden", "true");
  return cell;
}

function addRow(body, name, share, text, { kind = "", color = "" } = {}) {
  const row = body.insertRow();
  row.className = kind;
  const head = make("th", name);
  head.scope = "row";
  row.append(head, bar(share, color), make("td", text));
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/* The key, if the server wants one: it lives in this page's memory and goes into one header. */

const headers = (more = {}) => (state.key ? { ...more, "x-api-key": state.key } : more);

async function wantKey(sentence) {
  const form = at("key-form");
  form.hidden = false;
  at("loading").hidden = false;
  at("loading").textContent = sentence;
  at("key").value = "";
  at("key").focus();
  await new Promise((resolve) => { form.onsubmit = (event) => { event.preventDefault(); resolve(); }; });
  state.key = at("key").value.trim().replace(/[^\x21-\x7e]/g, "?"); // other characters cannot be sent, and are in no key
  at("key").value = "";
  form.hidden = true;
  at("loading").hidden = Boolean(state.model);
  at("loading").textContent = "Asking for the models…";
}

/* What is served. */

async function load() {
  for (;;) {
    try {
      const [described, examples] = await Promise.all([
        fetch("page/describe", { headers: headers() }), fetch("page/examples.json"),
      ]);
      const content = await described.json();
      if (described.status === 401) {
        await wantKey(state.key ? "The server does not know this key." : WORDS[401]);
        continue;
      }
      if (described.ok) {
        state.models = content.models;
        state.examples = await examples.json();
        return;
      }
      at("loading").textContent = `${WORDS[described.status] ?? ""} ${content.error} Asking again…`;
    } catch {
      at("loading").textContent = "The server cannot be reached. Asking again…";
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * RETRY_SECONDS));
  }
}

function showModels() {
  for (const model of state.models) {
    const option = make("option", `${model.name} (${model.modality}s)`);
    option.value = model.name;
    at("model").append(option);
  }
  at("model-part").hidden = state.models.length < 2;
  at("loading").hidden = true;
  at("columns").hidden = false;
}

function chooseModel(name) {
  const model = state.models.find((one) => one.name === name) ?? state.models[0];
  if (model === state.model) return;
  state.running?.abort();
  state.model = model;
  state.input = null;
  at("model").value = model.name;
  at("about").textContent = [
    model.description,
    `${count(model.heads, "head")}, ${count(model.labels.length, "class", "classes")}.`,
    quality(model),
  ].filter(Boolean).join(" ");
  const isImage = model.modality === "image";
  at("image-part").hidden = !isImage;
  at("text-part").hidden = isImage;
  showExamples(model, isImage);
  at("limits").replaceChildren(...limits(model, isImage).map((line) => make("li", line)));
  at("heads").max = model.heads + 1;
  at("heads").value = model.heads + 1;
  at("early").checked = false;
  at("options").hidden = model.heads < 2;
  showOptions();
  at("answer").hidden = at("error").hidden = true;
  say("Take an example, or something of your own.");
}

function quality(model) {
  const measured = model.evaluation.find((one) => one.split === "test") ?? model.evaluation[0];
  if (!measured) return "";
  return `On ${measured.rows.toLocaleString("en")} rows of its ${measured.split} data the vote was right in ${percent(measured.accuracy)}.`;
}

function limits(model, isImage) {
  const sees = model.sees;
  const lines = [
    `It knows ${model.labels.length} classes and names one of them for everything, also for what is none of them: ${model.labels.slice(0, 20).join(", ")}${model.labels.length > 20 ? ", …" : ""}.`,
    isImage
      ? `It sees the middle of your picture as ${sees.width} x ${sees.height} ${sees.grey ? "grey" : "coloured"} pixels, and nothing finer.`
      : `It reads the first ${sees.tokens} pieces of words; what follows is cut off.`,
    ...model.cannot,
  ];
  if (model.evaluation.length) lines.push("Its confidence means something for inputs like those it learned from, and for no others.");
  return lines;
}

function showExamples(model, isImage) {
  const examples = (state.examples[model.name] ?? []).filter((one) => (isImage ? one.image : one.text));
  at("examples-part").hidden = !examples.length;
  at("examples").classList.toggle("texts", !isImage);
  at("examples").replaceChildren(...examples.map((example) => {
    const button = make("button");
    button.type = "button";
    button.dataset.name = example.name;
    button.setAttribute("aria-pressed", "false");
    if (isImage) {
      const picture = make("img");
      picture.src = `data:image/png;base64,${example.image}`;
      picture.alt = "";
      button.append(picture, example.label);
    } else {
      button.append(example.label, make("span", example.text));
    }
    button.addEventListener("click", () => take(example));
    const item = make("li");
    item.append(button);
    return item;
  }));
}

/* What is asked. */

function take(example) {
  if (example.image) {
    const bytes = Uint8Array.from(atob(example.image), (character) => character.charCodeAt(0));
    state.input = { image: new Blob([bytes], { type: "image/png" }), file: `${example.name}.png` };
    at("file").value = "";
  } else {
    at("text").value = example.text;
    state.input = { text: example.text };
  }
  state.input.example = example;
  askAndShow();
}

function takeFile(file) {
  if (!file) return;
  const model = state.models.find((one) => one.modality === "image");
  if (!model) return fail("This server has no model for pictures.", "", "");
  if (state.model.modality !== "image") chooseModel(model.name);
  state.input = { image: file, file: file.name || "picture" };
  askAndShow();
}

function takeText() {
  const text = at("text").value;
  if (!text.trim()) {
    say("Type a text first.");
    at("text").focus();
    return;
  }
  state.input = { text };
  askAndShow();
}

function options() {
  const heads = Number(at("heads").value);
  const wish = {};
  if (heads <= state.model.heads) wish.heads = heads;
  if (at("early").checked) wish.min_confidence = Number(at("confidence").value) / 100;
  return wish;
}

function showOptions() {
  const heads = Number(at("heads").value), total = state.model.heads;
  const text = heads > total ? "all" : `${heads} of ${total}`;
  at("heads-value").textContent = text;
  at("heads").setAttribute("aria-valuetext", text);
  const sure = Number(at("confidence").value);
  at("confidence-value").textContent = `${sure} %`;
  at("confidence").setAttribute("aria-valuetext", `${sure} percent`);
  at("confidence").disabled = !at("early").checked;
  const { points, rows, split } = state.model.early_exit;
  const point = points.filter((one) => one.min_confidence <= sure / 100 + 1e-9).at(-1);
  at("early-hint").textContent = point && rows
    ? `Measured at ${Math.round(100 * point.min_confidence)} % on ${rows.toLocaleString("en")} rows of its ${split} data: ${point.mean_heads.toFixed(2)} heads on average, ${percent(point.accuracy)} right.`
    : "";
}

async function askAndShow() {
  await ask();
  const panel = at("answer-panel");
  if (panel.getBoundingClientRect().top > innerHeight * 0.7) panel.scrollIntoView(); // one column: it is below
}

async function ask() {
  if (!state.input) return;
  state.running?.abort();
  const running = (state.running = new AbortController());
  const { model, input } = state;
  const wish = options();
  const query = new URLSearchParams({ model: model.name, top_k: Math.min(TOP, model.labels.length), ...wish });
  const body = input.image ?? JSON.stringify({ inputs: [{ text: input.text }] });
  const type = input.image ? input.image.type || "application/octet-stream" : "application/json";
  for (const button of at("examples").querySelectorAll("button"))
    button.setAttribute("aria-pressed", button.dataset.name === input.example?.name);
  remember(model, input.example, wish);
  at("answer-panel").classList.add("busy");
  say("Asking…", { seen: at("answer").hidden });
  const started = performance.now();
  try {
    const reply = await fetch(`predict?${query}`, {
      method: "POST", body, headers: headers({ "content-type": type }), signal: running.signal,
    });
    const content = await reply.json();
    const elapsed = performance.now() - started;
    if (running.signal.aborted) return;
    if (reply.ok) await showAnswer(content, elapsed, query);
    else if (reply.status === 401) { // the keys have changed since the page was loaded
      fail(WORDS[401], content.error, content.id);
      wantKey(WORDS[401]).then(ask);
    } else fail(WORDS[reply.status] ?? `The server answered ${reply.status}.`, content.error, content.id, content.retry_after_ms);
  } catch (error) {
    if (error.name === "AbortError") return;
    fail("The server cannot be reached, or its answer cannot be read.", "", "");
  } finally {
    if (state.running === running) at("answer-panel").classList.remove("busy");
  }
}

function remember(model, example, wish) {
  if (!example) return history.replaceState(null, "", location.pathname);
  const parts = { model: model.name, example: example.name };
  if (wish.heads) parts.heads = wish.heads;
  if (wish.min_confidence) parts.confidence = Math.round(100 * wish.min_confidence);
  history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (state.model && !parts.has("model")) return; // a link inside the page
  chooseModel(parts.get("model"));
  const example = (state.examples[state.model.name] ?? []).find((one) => one.name === parts.get("example"));
  if (!example) return;
  const heads = Number(parts.get("heads")), sure = Number(parts.get("confidence"));
  if (heads >= 1 && heads <= state.model.heads) at("heads").value = heads;
  if (sure >= 50 && sure <= 99) {
    at("early").checked = true;
    at("confidence").value = sure;
  }
  showOptions();
  take(example);
}

/* What is answered. */

function say(sentence, { seen = true } = {}) {
  at("status").textContent = sentence;
  at("status").classList.toggle("unseen", !seen); // to be heard only, where the answer says it to the eye
}

function fail(words, sentence, id, wait) {
  at("answer").hidden = true;
  at("error").hidden = false;
  at("error-words").textContent = words;
  at("error-sentence").textContent = (sentence ?? "") + (wait ? ` Try again in ${(wait / 1000).toFixed(1)} s.` : "");
  at("error-id").textContent = id ? `Request ${id}` : "";
  at("again").hidden = !state.input;
  say("");
}

async function showAnswer(reply, elapsed, query) {
  const [prediction] = reply.predictions;
  const { input, model } = state;
  await showSeen(input, model);
  const truth = input.example?.label;
  at("truth").textContent = truth
    ? `In truth: ${truth}. ${truth === prediction.label ? "The vote is right." : "The vote is wrong."}`
    : "Your own input: the model may be sure and wrong. Mind what it cannot do.";
  at("verdict-label").textContent = prediction.label;
  at("verdict-probability").textContent = percent(prediction.probability);
  const why = STOPPED[prediction.stopped_by]?.(prediction.heads_used, prediction.heads_total)
    ?? `${prediction.heads_used} of ${prediction.heads_total} heads voted.`;
  at("why").textContent = why;

  at("vote").replaceChildren();
  for (const { label, probability } of prediction.top_k)
    addRow(at("vote"), label, probability, percent(probability));
  at("opinions").replaceChildren();
  for (const { head, label, probability } of prediction.heads) {
    const differs = label !== prediction.label;
    addRow(at("opinions"), `head ${head}`, probability, `${label}, ${percent(probability)}${differs ? ", differs from the vote" : ""}`,
      { kind: differs ? "differs" : "" });
  }
  for (let head = prediction.heads_used; head < prediction.heads_total; head++)
    addRow(at("opinions"), `head ${head}`, 0, "not asked", { kind: "silent" });
  at("disagreement").textContent = disagreement(prediction);
  showTiming(reply.timing_ms, elapsed);
  at("curl").textContent = curl(input, query);
  at("reply").textContent = JSON.stringify(reply, null, 2);
  at("by").textContent = `${reply.model} version ${reply.version}, ${reply.precision}, by ${reply.engine}. Request ${reply.id}`;
  at("error").hidden = true;
  at("answer").hidden = false;
  say(`${prediction.label}, ${percent(prediction.probability)}. ${why}`, { seen: false });
}

function disagreement(prediction) {
  if (prediction.disagreement === null) return "Disagreement: a single head has nobody to disagree with.";
  if (prediction.disagreement === 0) return "Disagreement: none, all of them have the same first choice.";
  return `Disagreement: ${percent(prediction.disagreement)} of the pairs of heads differ in their first choice.`;
}

function showTiming(timing, elapsed) {
  const spent = { ...timing, way: Math.max(0, elapsed - timing.total) };
  const total = STEPS.reduce((sum, [step]) => sum + spent[step], 0) || 1;
  at("timeline").replaceChildren();
  at("timing").replaceChildren();
  for (const [step, words] of STEPS) {
    const piece = make("span", "", step);
    piece.style.flexGrow = spent[step] / total;
    at("timeline").append(piece);
    addRow(at("timing"), words, spent[step] / total, time(spent[step]), { color: step });
  }
  addRow(at("timing"), "total on the server", timing.total / total, time(timing.total), { color: "way" });
}

function curl(input, query) {
  const url = `${location.origin}${location.pathname}predict?${query}`;
  const key = state.key ? ' -H "x-api-key: $KEY"' : "";
  if (input.image) return `curl${key} --data-binary @${quoted(input.file)} ${quoted(url)}`;
  return `curl${key} --json ${quoted(JSON.stringify({ inputs: [{ text: input.text }] }))} ${quoted(url)}`;
}

async function showSeen(input, model) {
  at("seen-text").hidden = !input.text;
  at("seen-picture").hidden = at("seen-small").hidden = !input.image;
  at("seen-text").textContent = input.text ?? "";
  if (!input.image) return;
  let picture;
  try {
    picture = await createImageBitmap(input.image);
  } catch { // the server reads formats that this browser may not
    at("seen-picture").hidden = at("seen-small").hidden = true;
    return;
  }
  const { width, height, shorter, grey } = model.sees;
  draw(at("original"), picture, 320, 320, Math.min(320 / picture.width, 320 / picture.height), false);
  draw(at("reduced"), picture, width, height, shorter / Math.min(picture.width, picture.height), grey);
  at("reduced-caption").textContent = `About what the model sees: ${width} x ${height}${grey ? " in grey" : ""}`;
  picture.close();
}

function draw(canvas, picture, width, height, scale, grey) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.filter = grey ? "grayscale(1)" : "none";
  context.imageSmoothingEnabled = scale < 1;
  context.imageSmoothingQuality = "high";
  const across = picture.width * scale, up = picture.height * scale;
  context.drawImage(picture, (width - across) / 2, (height - up) / 2, across, up);
}

/* What people do. */

function listen() {
  let pause;
  const later = () => {
    clearTimeout(pause);
    pause = setTimeout(ask, 150);
  };
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state.model.modality === "text") takeText();
  });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) takeText();
  });
  at("model").addEventListener("change", () => chooseModel(at("model").value));
  at("file").addEventListener("change", () => takeFile(at("file").files[0]));
  for (const id of ["heads", "early", "confidence"])
    at(id).addEventListener("input", () => { showOptions(); later(); });
  at("again").addEventListener("click", ask);
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // or the browser would leave the page and open the file
      at("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") takeFile(event.dataTransfer.files[0]);
    });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) takeFile(event.clipboardData.files[0]);
  });
  addEventListener("hashchange", recall);
}

load().then(() => {
  showModels();
  listen();
  recall();
});
