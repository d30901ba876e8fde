// The list of examples, and what opening one shows. All text of others goes in as text, never as HTML.

const PAGE_SIZE = 200;
const LEAST_KEPT = 0.2; // of a text, for marks to say more than the two texts do
const $ = (id) => document.getElementById(id);

function el(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {}))
    if (value === true) made.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

async function readData() {
  const source = $("data");
  if (!source.hasAttribute("data-packed")) return JSON.parse(source.textContent);
  const bytes = Uint8Array.from(atob(source.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const state = { data: null, run: 0, rows: [], shown: PAGE_SIZE, sort: null, down: false, open: null, back: null };
const examplesOf = () => state.data.runs[state.run].examples;
const textOf = (number) => state.data.texts[number];

// ---- the list

function columnsOf(examples) {
  const stages = new Set(), criteria = new Set();
  let groups = false, people = false;
  for (const example of examples) {
    Object.keys(example.stops).forEach((stage) => stages.add(stage));
    example.judged.forEach((row) => row.criterion && criteria.add(row.criterion));
    groups = groups || example.group !== "";
    people = people || example.people !== null;
  }
  const columns = [{ name: "example", key: (e) => e.id }];
  if (groups) columns.push({ name: "group", key: (e) => e.group });
  for (const stage of stages)
    columns.push({ name: stage, key: (e) => `${e.path[stage] || ""} ${e.stops[stage] || ""}`.trim(), stage });
  for (const criterion of criteria)
    columns.push({ name: criterion, key: (e) => scoreOf(e, criterion), numeric: true });
  if (people) columns.push({ name: "people", key: (e) => e.people, numeric: true });
  columns.push({ name: "answer", key: (e) => e.error || e.start });
  return columns;
}

// The mean of the numbers that judges gave for a criterion; null without any.
function scoreOf(example, criterion) {
  const found = example.judged.filter((row) => row.criterion === criterion && row.value !== null).map((row) => row.value);
  return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null;
}

const shownNumber = (value) => value === null ? "–" : String(Math.round(value * 100) / 100);

function fillFilters() {
  const examples = examplesOf();
  const options = (id, first, values) => {
    const select = $(id), kept = select.value;
    select.replaceChildren(el("option", { value: "" }, first), ...values.map(([value, name]) => el("option", { value }, name)));
    if (values.some(([value]) => value === kept)) select.value = kept;
  };
  const groups = [...new Set(examples.map((e) => e.group))].filter(Boolean).sort();
  options("group", "all", groups.map((name) => [name, name]));
  $("group-label").hidden = !groups.length;
  const ends = new Set();
  examples.forEach((e) => Object.entries(e.stops).forEach(([stage, reason]) => ends.add(`${stage} ${reason}`)));
  options("stop", "all", [...ends].sort().map((name) => [name, name]));
  const kinds = [
    ["failed", "failed", (e) => e.error], ["done", "done", (e) => !e.error], ["refined", "refined", (e) => e.refined],
    ["flagged", "flagged", (e) => e.flags.length],
  ];
  options("state", "all", kinds.filter(([, , has]) => examples.some(has)).map(([value, name]) => [value, name]));
  const numeric = columnsOf(examples).filter((column) => column.numeric).map((column) => [column.name, column.name]);
  options("criterion", "any", numeric);
  $("score-range").hidden = !numeric.length;
}

const STATES = { failed: (e) => e.error, done: (e) => !e.error, refined: (e) => e.refined, flagged: (e) => e.flags.length };

function searchable(example) {
  if (!example.words) {
    const numbers = [example.inputs, example.outputs, example.labels].flat().map(([, number]) => number);
    for (const step of example.trace) numbers.push(step.text, step.feedback);
    example.judged.forEach((row) => numbers.push(...row.said));
    const texts = [...new Set(numbers)].filter((number) => number !== undefined).map(textOf);
    const ends = Object.entries(example.stops).map(([stage, reason]) => `${stage} ${reason}`);
    example.words = [example.id, example.group, example.error || "", ...ends, ...example.flags, ...texts].join("\n").toLowerCase();
  }
  return example.words;
}

function filtered() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const group = $("group").value, stop = $("stop").value, kind = $("state").value, criterion = $("criterion").value;
  const column = columnsOf(examplesOf()).find((each) => each.numeric && each.name === criterion);
  const from = $("from").value === "" ? -Infinity : Number($("from").value);
  const to = $("to").value === "" ? Infinity : Number($("to").value);
  return examplesOf().filter((example) => {
    if (group && example.group !== group) return false;
    if (stop && !Object.entries(example.stops).some(([stage, reason]) => `${stage} ${reason}` === stop)) return false;
    if (kind && !STATES[kind](example)) return false;
    if (column) {
      const value = column.key(example);
      if (value === null || value < from || value > to) return false;
    }
    return words.every((word) => searchable(example).includes(word));
  });
}

const order = new Intl.Collator(undefined, { numeric: true });

function sorted(rows, columns) {
  const column = columns.find((each) => each.name === state.sort);
  if (!column) return rows;
  const sign = state.down ? -1 : 1;
  return [...rows].sort((a, b) => {
    const x = column.key(a), y = column.key(b);
    if (x === null || y === null) return (x === null) - (y === null); // what is missing stands last either way
    return sign * (column.numeric ? x - y : order.compare(x, y));
  });
}

function draw() {
  const columns = columnsOf(examplesOf());
  state.rows = sorted(filtered(), columns);
  const heads = columns.map((column) => {
    const direction = column.name === state.sort ? (state.down ? "descending" : "ascending") : "none";
    const button = el("button", { type: "button" }, column.name);
    button.addEventListener("click", () => sortBy(column.name));
    return el("th", { scope: "col", "aria-sort": direction, class: column.numeric ? "num" : null }, button);
  });
  $("rows").tHead.replaceChildren(el("tr", {}, heads));
  $("rows").tBodies[0].replaceChildren(...state.rows.slice(0, state.shown).map((example, n) => rowOf(example, n, columns)));
  const all = examplesOf().length, found = state.rows.length;
  $("count").textContent = found === all ? `${all.toLocaleString("en")} examples` : `${found.toLocaleString("en")} of ${all.toLocaleString("en")} examples`;
  $("more").hidden = found <= state.shown;
}

function rowOf(example, number, columns) {
  const open = el("button", { type: "button", class: "open", dir: "auto", tabindex: number ? "-1" : "0" }, example.id || "(no id)");
  const row = el("tr", {}, el("th", { scope: "row" }, open));
  for (const column of columns.slice(1)) {
    const value = column.key(example);
    if (column.numeric) row.append(el("td", { class: "num" }, shownNumber(value)));
    else if (column.stage) row.append(el("td", { class: "nowrap" }, ...stopOf(example, column.stage)));
    else if (column.name === "answer") row.append(el("td", { class: example.error ? "start error" : "start", dir: "auto" }, el("span", {}, value)));
    else row.append(el("td", { class: "group", dir: "auto" }, value));
  }
  row.addEventListener("click", () => show(example.id, open));
  return row;
}

const ENDS = { accepted: "good", exhausted: "warn", unscored: "bad" };

function stopOf(example, stage) {
  const reason = example.stops[stage];
  return [example.path[stage] ? `${example.path[stage]} ` : "", reason ? el("span", { class: `badge ${ENDS[reason] || ""}` }, reason) : ""];
}

function sortBy(name) {
  state.down = state.sort === name && !state.down;
  state.sort = name;
  draw();
  const heads = [...$("rows").tHead.querySelectorAll("button")];
  heads.find((button) => button.textContent === name).focus();
}

function refresh() {
  state.shown = PAGE_SIZE;
  draw();
}

// ---- one example

function block(kind, title, content, ...more) {
  return el("section", { class: `block ${kind}` }, el("h4", {}, title, ...more), content);
}

const text = (value, clipped) => el("div", { class: clipped ? "text clipped" : "text", dir: "auto", tabindex: clipped ? "0" : null }, value);

function longText(value) {
  return text(value, value.length > 3000);
}

// The later text with what changed against the earlier one.
function changed(before, after) {
  const parts = before === after ? [["same", after]] : wordDiff(before, after);
  if (parts === null) return [longText(after), el("p", { class: "dim" }, "too long to mark what changed")];
  const marked = text("", after.length > 3000);
  marked.append(...parts.map(([kind, part]) => kind === "same" ? part : el(kind === "in" ? "ins" : "del", {}, part)));
  if (keptShare(parts) >= LEAST_KEPT) return [marked];
  return [longText(after), el("details", {}, el("summary", {}, "Little in common: mark what changed all the same"), marked)];
}

function traceOf(example) {
  const found = [];
  let previous = null;
  for (const step of example.trace) {
    if (!previous || previous.stage !== step.stage)
      found.push(el("h3", {}, step.stage, " ", ...stopOf({ path: {}, stops: example.stops }, step.stage)));
    if (step.kind === "draft") found.push(block("candidate", "draft", longText(textOf(step.text))));
    if (step.kind === "refined")
      found.push(block("candidate", "refined", el("div", {}, changed(textOf(previous.text), textOf(step.text)))));
    if (step.kind === "same") found.push(block("candidate", "refined into the same text", ""));
    if (step.feedback !== undefined) {
      const score = step.score === null ? "no readable score" : `score ${step.score}`;
      found.push(block("critic", "critic", longText(textOf(step.feedback)), el("span", { class: "badge" }, score),
        step.kind === "again" ? el("span", { class: "dim" }, "asked again") : ""));
    }
    previous = step;
  }
  return found;
}

function failureOf(example) {
  if (!example.error) return [];
  const found = [block("failed", "error", text(example.error))];
  const failure = example.failure;
  if (failure) {
    if (failure.stage) found.push(el("p", {}, `failed at ${failure.stage}${failure.attempt ? `, sample ${failure.attempt + 1}` : ""}`));
    if (failure.answer !== null) found.push(block("failed", "answer as it came", longText(textOf(failure.answer))));
    failure.chain.forEach((cause) => found.push(el("p", { class: "dim" }, cause)));
  }
  return found;
}

function scoresOf(example) {
  if (!example.judged.length && example.people === null) return [];
  const rows = example.judged.map((row) => el("tr", {},
    el("th", { scope: "row" }, row.criterion || "failed"), el("td", { class: "num strong" }, shownNumber(row.value)),
    el("td", { dir: "auto" }, row.judge)));
  if (example.people !== null)
    rows.push(el("tr", {}, el("th", { scope: "row" }, "people"), el("td", { class: "num strong" }, shownNumber(example.people)), el("td", {}, "human score")));
  const heads = ["criterion", "score", "by"].map((name, n) => el("th", { scope: "col", class: n === 1 ? "num" : null }, name));
  const table = el("div", { class: "scroll", role: "region", "aria-label": "Scores", tabindex: "0" },
    el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
  const said = example.judged.filter((row) => row.said.length).map((row) =>
    block("critic", row.criterion || "failed", el("div", {}, row.said.map((number) => longText(textOf(number))))));
  return [el("h3", {}, "Scores"), table, said.length ? el("details", {}, el("summary", {}, "What the judge said"), said) : ""];
}

function callsOf(example) {
  if (!example.calls.length) return [];
  const calls = example.calls.map((call) => el("details", { class: "mono" },
    el("summary", {}, `${call.stage} `, el("span", { class: "dim" }, call.about)),
    call.messages.map(([role, number]) => block("", role, longText(textOf(number)))),
    call.error ? block("failed", "error", text(call.error)) : "",
    call.answer !== null ? block("result", "answer", longText(textOf(call.answer))) : ""));
  return [el("h3", {}, `LM calls: ${calls.length}`), ...calls];
}

function fields(title, values, kind) {
  return values.length ? [el("h3", {}, title), ...values.map(([name, number]) => block(kind, name, longText(textOf(number))))] : [];
}

// What stands at the end, against the first run's where runs are shown side by side.
function outputsOf(example, first) {
  const theirs = first ? Object.fromEntries(first.outputs) : {};
  const beside = state.data.runs.length > 1; // the response first, so that it stands side by side
  const outputs = beside ? [...example.outputs].sort(([a], [b]) => (b === "response") - (a === "response")) : example.outputs;
  return [el("h3", {}, "Result"), ...outputs.map(([name, number]) => {
    const content = name in theirs ? el("div", {}, changed(textOf(theirs[name]), textOf(number))) : longText(textOf(number));
    return block("result", name, content, name in theirs ? el("span", { class: "dim" }, "marked: against the first run") : "");
  })];
}

function columnOf(run, example, first) {
  const beside = state.data.runs.length > 1;
  return el("div", { class: "column" },
    beside ? el("h3", { dir: "auto" }, run.name) : "",
    beside ? outputsOf(example, first) : "",
    beside ? scoresOf(example) : "",
    first ? "" : fields("Inputs", example.inputs, ""),
    failureOf(example), traceOf(example),
    beside || !example.outputs.length ? "" : outputsOf(example, null),
    beside ? "" : scoresOf(example),
    example.flags.map((flag) => el("p", { class: "note" }, `an answer is ${flag}`)),
    first || !example.labels.length ? "" : el("details", {}, el("summary", {}, "Known about the example and not shown to the program"),
      example.labels.map(([name, number]) => block("", name, longText(textOf(number))))),
    callsOf(example),
    el("p", { class: "dim" }, example.usage));
}

function show(id, from) {
  const found = state.data.runs.map((run) => [run, run.examples.find((example) => example.id === id)]).filter(([, example]) => example);
  if (!found.length) return;
  const dialog = $("example"), first = found[0][1];
  state.open = id;
  state.back = from || state.back;
  $("example-title").replaceChildren(id, first.group ? " · " : "", first.group ? el("span", { class: "dim" }, first.group) : "");
  $("detail").replaceChildren(...found.map(([run, example], n) => columnOf(run, example, n ? first : null)));
  $("detail").style.setProperty("--columns", found.length);
  dialog.classList.toggle("beside", found.length > 1);
  const place = state.rows.findIndex((example) => example.id === id);
  $("before").disabled = place <= 0;
  $("after").disabled = place < 0 || place >= state.rows.length - 1;
  if (!dialog.open) dialog.showModal();
  $("detail").scrollTop = 0;
  $("example-title").focus();
}

// At once, and not when the browser says that it closed: by then the reader may be elsewhere.
function closeExample() {
  $("example").close();
  if (state.back && state.back.isConnected) state.back.focus();
}

function step(by) {
  const place = state.rows.findIndex((example) => example.id === state.open);
  const next = state.rows[place + by];
  if (place < 0 || !next) return;
  if (place + by >= state.shown) { state.shown += PAGE_SIZE; draw(); }
  show(next.id, buttons()[place + by]);
}

// ---- the keyboard

const buttons = () => [...$("rows").tBodies[0].querySelectorAll("button.open")];

function focusRow(place) {
  const all = buttons();
  if (place >= all.length && !$("more").hidden) { $("more").click(); return focusRow(place); }
  if (!all[place]) return;
  all.forEach((button) => button.setAttribute("tabindex", "-1"));
  all[place].setAttribute("tabindex", "0");
  all[place].focus();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if ($("example").open) {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === "Escape") closeExample();
    else return;
  } else if (event.key === "/" && !typing) $("search").focus();
  else if (event.key === "Escape" && document.activeElement === $("search")) { $("search").value = ""; refresh(); }
  else if (event.key === "Enter" && document.activeElement === $("search")) focusRow(0);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const at = buttons().indexOf(document.activeElement);
    if (at < 0 && !(document.activeElement === $("search") && event.key === "ArrowDown")) return;
    if (at === 0 && event.key === "ArrowUp") $("search").focus();
    else focusRow(at + (event.key === "ArrowDown" ? 1 : -1));
  } else return;
  event.preventDefault();
}

function markPairs() {
  for (const pair of document.querySelectorAll("[data-diff]")) {
    const before = pair.querySelector("[data-before]"), after = pair.querySelector("[data-after]");
    const parts = wordDiff(before.textContent, after.textContent);
    if (parts === null) continue;
    const side = (kind, tag) => parts.filter(([each]) => each === "same" || each === kind).map(([each, part]) => each === "same" ? part : el(tag, {}, part));
    before.replaceChildren(...side("out", "del"));
    after.replaceChildren(...side("in", "ins"));
  }
}

async function begin() {
  markPairs();
  if (!$("examples")) return;
  state.data = await readData();
  if (state.data.runs.length > 1) {
    $("run").replaceChildren(...state.data.runs.map((run, number) => el("option", { value: number }, run.name)));
    $("run-label").hidden = false;
    $("run").addEventListener("change", () => { state.run = Number($("run").value); fillFilters(); refresh(); });
  }
  fillFilters();
  draw();
  for (const id of ["search", "group", "stop", "state", "criterion", "from", "to"]) $(id).addEventListener("input", refresh);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("more").addEventListener("click", () => { state.shown += PAGE_SIZE; draw(); });
  $("close").addEventListener("click", closeExample);
  $("example").addEventListener("cancel", closeExample);
  $("before").addEventListener("click", () => step(-1));
  $("after").addEventListener("click", () => step(1));
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("[data-open]"))
    button.addEventListener("click", () => show(button.dataset.open, button));
  document.body.dataset.ready = "";
}

begin();
