// A few requests at a time, in the order in which the images came.

const IN_FLIGHT = 4; // enough to fill a batch of the server beside other people's, and no flood

export class Queue {
  #waiting = [];
  #running = 0;
  #controller = new AbortController();

  /**
   * @param {function(Object, AbortSignal): Promise<void>} work on one item; it handles its own errors
   * @param {function()} onIdle called when nothing is left to do
   */
  constructor(work, onIdle) {
    this.work = work;
    this.onIdle = onIdle;
  }

  get isIdle() {
    return this.#running === 0 && this.#waiting.length === 0;
  }

  add(items) {
    this.#waiting.push(...items);
    this.#fill();
  }

  /** Drops what waits and stops what runs; returns those that had not begun. */
  cancel() {
    const left = this.#waiting;
    this.#waiting = [];
    this.#controller.abort();
    this.#controller = new AbortController();
    return left;
  }

  #fill() {
    while (this.#running < IN_FLIGHT && this.#waiting.length > 0) this.#run(this.#waiting.shift());
  }

  async #run(item) {
    this.#running += 1;
    try {
      await this.work(item, this.#controller.signal);
    } finally {
      this.#running -= 1;
      this.#fill();
      if (this.isIdle) this.onIdle();
    }
  }
}
