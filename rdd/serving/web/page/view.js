// The section that shows one image, and what can be asked of it: why, once more with its caption, as JSON.

import { credentials, preview, rates, reasons, verdict } from "./details.js";
import { element, foreign } from "./elements.js";
import { explanation } from "./explanation.js";
import { predict } from "./server.js";

export class View {
  #stop = null;

  /**
   * @param {HTMLElement} section
   * @param {{say: function(string), step: function(number), toList: function(), askAgain: function(Object)}} page
   */
  constructor(section, page) {
    this.section = section;
    this.page = page;
    this.item = null;
    this.title = element("h2", { id: "details-title", tabindex: "-1" });
    this.previous = this.#button("Previous", () => page.step(-1));
    this.next = this.#button("Next", () => page.step(1));
    this.place = element("span", { class: "muted" });
    this.steps = element("p", { class: "actions" }, this.previous, this.next, this.#button("Back to the table", page.toList), this.place);
    this.result = element("div", { class: "result" });
    section.append(this.title, this.steps, this.result);
  }

  /** Draws an item, or draws it again. */
  show(item) {
    if (item !== this.item) this.#leave();
    this.item = item;
    this.title.replaceChildren(foreign(item.name));
    this.result.replaceChildren(preview(item), this.#body(item), ...(item.answer ? [this.#why(item)] : []));
    this.section.hidden = false;
  }

  /** Says which of how many images it shows. */
  put(number, of) {
    this.steps.hidden = of < 2;
    this.place.textContent = `${number} of ${of}`;
    this.previous.disabled = number === 1;
    this.next.disabled = number === of;
  }

  focus() {
    this.title.focus();
  }

  clear() {
    this.#leave();
    this.item = null;
    this.section.hidden = true;
  }

  #leave() {
    this.#stop?.abort();
    this.#stop = null;
  }

  #body(item) {
    if (item.answer) return this.#answer(item);
    const said = { failed: item.problem?.message, cancelled: "It was cancelled before there was an answer." }[item.state];
    const body = element("div", { class: "panel" }, element("p", said ? { class: "missing" } : { class: "muted" }, said ?? "Asking the server …"));
    if (item.problem?.reason === "no_caption") body.append(this.#captionForm(item));
    else if (said && !item.problem?.isLasting) body.append(element("p", { class: "actions" }, this.#button("Ask again", () => this.page.askAgain(item))));
    if (item.problem?.body) body.append(this.#json(item.problem.body));
    return body;
  }

  #answer(item) {
    const { answer } = item;
    const body = element("div", { class: "panel" }, verdict(answer), reasons(answer));
    if (answer.reasons.some((reason) => reason.code === "no_caption")) body.append(this.#captionForm(item));
    body.append(credentials(answer.content_credentials), rates(answer), this.#json(answer));
    return body;
  }

  #captionForm(item) {
    const field = element("input", { id: "caption", type: "text", required: "", autocomplete: "off" });
    const form = element(
      "form",
      { class: "actions" },
      element("label", { for: "caption" }, "Its caption or prompt"),
      field,
      element("button", { type: "submit" }, "Ask again with it"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.page.askAgain(item, field.value);
    });
    return form;
  }

  #why(item) {
    const place = element("div");
    const button = this.#button("Explain", () => this.#explain(item, button, place));
    const text =
      "Which parts of the picture the score rests on, and the nearest training images. The server covers one part after " +
      "another and looks at each copy, which takes many times as long as the verdict: some seconds, or minutes where it has much to do.";
    const hint = element("p", { class: "muted", id: "explain-hint" }, text);
    button.setAttribute("aria-describedby", "explain-hint");
    if (item.explanation) place.append(explanation(item.explanation));
    const title = element("h3", {}, "Why");
    return element("section", { class: "why", "aria-label": "Why" }, title, hint, element("p", { class: "actions" }, button), place);
  }

  async #explain(item, button, place) {
    if (this.#stop) {
      this.#leave();
      return;
    }
    const stop = (this.#stop = new AbortController());
    button.textContent = "Stop explaining";
    place.replaceChildren(element("p", {}, "The server is looking at the parts of the picture …"));
    const onWait = (seconds) => place.replaceChildren(element("p", {}, `The server is busy; asked again in ${Math.ceil(seconds)} s.`));
    try {
      const found = await predict(item, { signal: stop.signal, onWait, explain: true });
      item.explanation = found.explanation;
      place.replaceChildren(explanation(item.explanation));
      if (item === this.item) this.page.say(`${item.name}: the explanation is there, below the picture.`);
    } catch (error) {
      const isStopped = error.name === "AbortError";
      place.replaceChildren(...(isStopped ? [] : [element("p", { class: "missing" }, error.message)]));
      if (item === this.item) this.page.say(isStopped ? "The explanation was stopped." : error.message);
    }
    if (this.#stop === stop) this.#stop = null;
    button.textContent = "Explain";
  }

  #json(value) {
    const text = JSON.stringify(value, null, 2);
    const shown = element("pre", { tabindex: "0", role: "region", "aria-label": "Answer as JSON" }, text);
    const folded = element("details", {}, element("summary", {}, "Show the JSON"), shown);
    const button = this.#button("Copy as JSON", async () => {
      try {
        await navigator.clipboard.writeText(text); // absent where the page came neither by https nor from this computer
        this.page.say("Copied as JSON.");
      } catch {
        folded.open = true;
        getSelection().selectAllChildren(shown);
        const isCopied = document.execCommand("copy");
        this.page.say(isCopied ? "Copied as JSON." : "The browser did not copy it. The JSON is selected: press Ctrl+C (⌘C on a Mac).");
      }
    });
    return element("section", { "aria-label": "JSON" }, element("p", { class: "actions" }, button), folded);
  }

  #button(text, onClick) {
    const button = element("button", { type: "button" }, text);
    button.addEventListener("click", onClick);
    return button;
  }
}
