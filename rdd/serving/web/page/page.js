// The page: images come in, go through the queue, and are shown; what happens is said.

import { csv } from "./csv.js";
import { facts } from "./details.js";
import { listen } from "./intake.js";
import { Queue } from "./queue.js";
import { about, predict, tooLarge } from "./server.js";
import { Table } from "./table.js";
import { View } from "./view.js";
import { VERDICTS, bytes, images, percent } from "./words.js";

const part = (id) => document.getElementById(id);
const say = (text) => (part("status").textContent = text);

let model = null; // what the server says of its detector; nothing is sent before it is known
let asked = []; // what the queue was last given, to say how far it is
const table = new Table(part("list").querySelector("table"), (item) => choose(item), place);
const queue = new Queue(ask, finished);
const view = new View(part("details"), { say, step, toList: () => table.focus(view.item), askAgain });

/** Asks the server about one item; whatever comes of it is noted there. */
async function ask(item, signal) {
  change(item, { state: "running" });
  const onWait = (wait) => change(item, { state: "busy", wait });
  try {
    const answer = await predict(item, { signal, onWait });
    change(item, { state: "answered", answer: { ...answer, image: item.name } }); // the server does not learn the name
  } catch (error) {
    if (error.name === "AbortError") change(item, { state: "cancelled" });
    else change(item, { state: "failed", problem: error });
  }
}

function change(item, values) {
  Object.assign(item, values);
  table.update(item);
  if (item === view.item) view.show(item);
  const done = asked.filter(isDone).length;
  part("bar").value = done / Math.max(1, asked.length);
  part("count").textContent = `${done} of ${images(asked.length)}`;
}

function isDone({ state }) {
  return state === "answered" || state === "failed" || state === "cancelled";
}

function receive(files) {
  if (files.length === 0) return;
  const items = files.map(({ file, name }) => {
    const problem = tooLarge(file, model.max_bytes);
    return { file, name, caption: "", state: problem ? "failed" : "waiting", problem, answer: null };
  });
  table.add(items);
  part("list").hidden = table.items.length < 2;
  if (table.items.length === items.length || items.length === 1) show(items[0]);
  place();
  send(items);
}

function send(items) {
  asked = [...(queue.isIdle ? [] : asked), ...items];
  const ready = items.filter((item) => item.state === "waiting");
  if (queue.isIdle && ready.length === 0) return finished();
  say(`Asking about ${images(ready.length)} …`);
  part("progress").hidden = false;
  queue.add(ready);
  return undefined;
}

function finished() {
  part("progress").hidden = true;
  table.sort();
  part("retry").hidden = !table.items.some(canBeRetried);
  place();
  if (asked.length === 0) return; // the list was cleared
  say(asked.length === 1 ? `${asked[0].name}: ${outcome(asked[0])}` : tally(asked));
}

function canBeRetried({ state, problem }) {
  return state === "cancelled" || (state === "failed" && !problem.isLasting);
}

function outcome({ state, answer, problem }) {
  if (answer) return `${VERDICTS[answer.verdict].title}, probability of being generated ${percent(answer.probability)}.`;
  return state === "cancelled" ? "cancelled." : problem.message;
}

function tally(items) {
  const counts = Object.entries(VERDICTS).map(([name, { title }]) => {
    return `${items.filter(({ answer }) => answer?.verdict === name).length} ${title.toLowerCase()}`;
  });
  const without = items.filter(({ answer }) => !answer).length;
  return `${images(items.length)}: ${counts.join(", ")}${without ? `; ${without} without an answer` : ""}.`;
}

function show(item) {
  view.show(item);
  table.mark(item);
  place();
}

function place() {
  const all = table.items;
  if (view.item) view.put(all.indexOf(view.item) + 1, all.length);
}

function choose(item) {
  show(item);
  view.focus();
}

function step(by) {
  const all = table.items;
  const item = all[all.indexOf(view.item) + by];
  show(item);
  if (document.activeElement === document.body) view.focus(); // the button that was pressed has come to its end
  say(`${item.name}: ${isDone(item) ? outcome(item) : "not answered yet."}`);
}

function askAgain(item, caption = item.caption) {
  Object.assign(item, { caption, state: "waiting", problem: null, answer: null, explanation: null });
  table.update(item);
  show(item);
  view.focus();
  send([item]);
}

function retry() {
  const items = table.items.filter(canBeRetried);
  for (const item of items) {
    Object.assign(item, { state: "waiting", problem: null });
    table.update(item);
  }
  part("retry").hidden = true;
  part("list-title").focus();
  send(items);
}

function clear() {
  cancel();
  for (const { address } of table.items) if (address) URL.revokeObjectURL(address);
  table.clear();
  view.clear();
  asked = [];
  part("list").hidden = true;
  say("The list is empty.");
  part("choose").focus();
}

function cancel() {
  for (const item of queue.cancel()) change(item, { state: "cancelled" });
  if (queue.isIdle) finished();
}

function download() {
  const address = URL.createObjectURL(new Blob([csv(table.items)], { type: "text/csv" }));
  const link = document.createElement("a");
  Object.assign(link, { href: address, download: "answers.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser reads it after the click
  say(`answers.csv holds ${images(table.items.length)}.`);
}

/** Nothing can be asked before the server has said what it takes. */
async function begin() {
  part("problem").hidden = part("again").hidden = true;
  try {
    const onWait = (seconds) => say(`The server is not ready yet; asked again in ${Math.ceil(seconds)} s.`);
    model = await about({ signal: new AbortController().signal, onWait });
  } catch (error) {
    part("problem").textContent = error.message;
    part("problem").hidden = part("again").hidden = false;
    return;
  }
  say("");
  part("limits").textContent = `Up to ${bytes(model.max_bytes)} each: ${model.formats.join(", ")}.`;
  for (const name of ["notice", "retention"]) {
    part(name).textContent = model[name];
    part(name).hidden = false;
  }
  part("facts").replaceChildren(...facts(model));
  part("about").hidden = false;
  part("choose").disabled = false;
}

listen({ button: part("choose"), input: part("files"), isOpen: () => model !== null }, receive, say);
part("cancel").addEventListener("click", cancel);
part("csv").addEventListener("click", download);
part("retry").addEventListener("click", retry);
part("clear").addEventListener("click", clear);
part("again").addEventListener("click", begin);
begin();
