// What is asked of the server, and its refusals as sentences.

import { bytes } from "./words.js";

const BUSY = [429, 503];
const LASTING = [400, 413, 422]; // what is wrong with the file itself

/** A request that brought no answer; its message is a sentence for people. */
export class Refused extends Error {
  /**
   * @param {string} message
   * @param {string} reason one word to count by, the server's where it has one
   * @param {{isLasting?: boolean, body?: ?Object}} more whether another try is in vain; all that the server sent
   */
  constructor(message, reason, { isLasting = false, body = null } = {}) {
    super(message);
    this.reason = reason;
    this.isLasting = isLasting;
    this.body = body;
  }
}

/** What the server says of its detector. */
export async function about({ signal, onWait }) {
  return sent("model", { signal }, onWait);
}

/**
 * The answer to one image; its name stays on this computer.
 * @param {{file: Blob, caption: string}} item
 * @param {{signal: AbortSignal, onWait: function(number), explain?: boolean}} how
 */
export async function predict({ file, caption }, { signal, onWait, explain = false }) {
  const request = { method: "POST", signal, ...(await content(file, caption)) };
  return sent(explain ? "predict?explain=true" : "predict", request, onWait);
}

async function content(file, caption) {
  const whole = await inMemory(file);
  if (!caption) return { body: whole, headers: { "Content-Type": "application/octet-stream" } };
  const form = new FormData();
  form.append("image", new Blob([whole]), "image");
  form.append("caption", caption);
  return { body: form };
}

/** Read before it is sent, so that a file that has gone is not taken for a server that has. */
async function inMemory(file) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Refused("It could not be read from this computer; it may have been moved or changed. Choose it again.", "unreadable_file");
  }
}

/** What the server answers; a request that is refused for being early is asked for again when the server says so. */
async function sent(address, request, onWait) {
  for (;;) {
    const response = await fetched(address, request);
    if (response.ok) return said(response);
    const seconds = BUSY.includes(response.status) ? delay(response.headers.get("Retry-After")) : null;
    if (seconds === null) throw await refusal(response);
    onWait(seconds);
    await pause(seconds, request.signal);
  }
}

async function fetched(address, request) {
  try {
    return await fetch(address, { ...request, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server could not be reached. Is it running, and is this computer connected to it?", "unreachable");
  }
}

async function said(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server's answer broke off. Ask again.", "broken_answer");
  }
}

/** Seconds that a Retry-After asks for, as a number or a date; null without one. */
function delay(header) {
  if (header === null) return null;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(0.2, seconds);
}

/** Waits, unless it is called off; some time more by chance, so that waiting requests do not all come back at once. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(
      () => {
        signal.removeEventListener("abort", stop);
        resolve();
      },
      seconds * 1000 * (1 + Math.random() / 4),
    );
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
  });
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  const detail = typeof error.detail === "string" ? error.detail : "";
  const more = { isLasting: LASTING.includes(response.status), body };
  return new Refused(sentence(response.status, detail), error.reason ?? `http_${response.status}`, more);
}

function sentence(status, detail) {
  const why = detail ? `: ${detail}.` : ".";
  if (status === 401) return `The server asks for its token${why} Reload the page, and give the token as the password.`;
  if (status === 413) return `The image is larger than the server takes${why}`;
  if (status === 422) return `There is no answer to this file${why}`;
  if (status === 429) return `The server has too much to do, try again later${why}`;
  if (status === 503) return `The server is not ready, try again later${why}`;
  return `The server answered with status ${status}${why}`;
}

/** Why a file need not be sent at all; null where it may be. */
export function tooLarge(file, mostBytes) {
  if (file.size <= mostBytes) return null;
  return new Refused(
    `It was not sent: its ${bytes(file.size)} are more than the ${bytes(mostBytes)} that the server takes. Save it smaller.`,
    "too_large",
    { isLasting: true },
  );
}
