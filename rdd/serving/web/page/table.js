// The table of many images.

import { element, foreign } from "./elements.js";
import { VERDICTS, credentialsInShort, number, percent } from "./words.js";

const ORDER = ["likely_generated", "uncertain", "likely_real"];
const KEYS = {
  name: (item) => item.name,
  verdict: (item) => (item.answer ? ORDER.indexOf(item.answer.verdict) : null),
  probability: (item) => item.answer?.probability ?? null,
  score: (item) => item.answer?.score ?? null,
};
const STATES = { waiting: "waiting", running: "asking the server", cancelled: "cancelled: not answered" };

export class Table {
  #rows = new Map();
  #sorted = null;

  /**
   * @param {HTMLTableElement} table
   * @param {function(Object)} onChosen called with the item whose row was clicked
   * @param {function()} onSorted called when the rows have another order
   */
  constructor(table, onChosen, onSorted) {
    this.onSorted = onSorted;
    this.body = table.tBodies[0];
    this.heads = [...table.tHead.querySelectorAll("th[data-key]")];
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) onChosen(this.#rows.get(row));
    });
    for (const head of this.heads) head.firstChild.addEventListener("click", () => this.#turn(head));
  }

  /** Items in the order of the rows. */
  get items() {
    return [...this.body.rows].map((row) => this.#rows.get(row));
  }

  add(items) {
    const rows = items.map((item) => {
      item.row = element("tr");
      this.#rows.set(item.row, item);
      this.update(item);
      return item.row;
    });
    this.body.append(...rows);
  }

  update(item) {
    const [name, ...before] = item.row.children;
    for (const cell of before) cell.remove(); // the name stays, and with it the focus
    if (!name) item.row.append(nameCell(item));
    item.row.append(...(item.answer ? cells(item.answer) : [element("td", { colspan: "5", class: "said" }, said(item))]));
  }

  mark(chosen) {
    for (const row of this.body.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
    chosen.row.setAttribute("aria-current", "true");
  }

  focus(item) {
    item.row.querySelector("button").focus();
  }

  clear() {
    this.#rows.clear();
    this.body.replaceChildren();
  }

  /** Again in the order that was asked for, as after new answers. */
  sort() {
    if (this.#sorted === null) return;
    const { key, direction } = this.#sorted;
    const rows = [...this.body.rows].sort((one, other) => {
      return compared(KEYS[key](this.#rows.get(one)), KEYS[key](this.#rows.get(other)), direction);
    });
    this.body.append(...rows);
    this.onSorted();
  }

  #turn(head) {
    const isUp = head.getAttribute("aria-sort") === "ascending";
    const isNew = !head.hasAttribute("aria-sort");
    const firstDown = head.dataset.key === "probability" || head.dataset.key === "score";
    const direction = isNew ? (firstDown ? -1 : 1) : isUp ? -1 : 1;
    for (const other of this.heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    this.#sorted = { key: head.dataset.key, direction };
    this.sort();
  }
}

/** Rows without a value come last in either direction. */
function compared(one, other, direction) {
  if (one === null || other === null) return (one === null) - (other === null);
  const order = typeof one === "string" ? one.localeCompare(other, undefined, { numeric: true }) : one - other;
  return order * direction;
}

function nameCell(item) {
  return element("th", { scope: "row" }, element("button", { type: "button", class: "link" }, foreign(item.name)));
}

function cells(answer) {
  const reasons = answer.reasons.filter((reason) => reason.about === "image").map((reason) => reason.code.replaceAll("_", " "));
  return [
    element("td", {}, element("span", { class: `mark ${answer.verdict}` }, VERDICTS[answer.verdict].title)),
    element("td", { class: "number" }, percent(answer.probability)),
    element("td", { class: "number" }, number(answer.score)),
    element("td", { class: "words" }, reasons.join(", ") || "none"),
    element("td", { class: "words" }, foreign(credentialsInShort(answer.content_credentials))),
  ];
}

function said(item) {
  if (item.state === "failed") return element("span", { class: "wrong" }, item.problem.message);
  const busy = () => `the server has too much to do: asked again in ${Math.ceil(item.wait)} s`;
  return element("span", {}, item.state === "busy" ? busy() : STATES[item.state]);
}
