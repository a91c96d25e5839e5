// Answers that come later than the question. Nothing here knows of a page.

const KEPT = 50;

/** What was answered is not asked again; a question that failed is. @template T */
export class Answers {
  /** @type {Map<string, Promise<T | null>>} */
  #known = new Map();

  /** @param {(question: string) => Promise<T>} fetch rejects where there is no answer */
  constructor(fetch) {
    this.fetch = fetch;
  }

  /** @param {string} question @returns {Promise<T | null>} null where there is no answer */
  ask(question) {
    const known = this.#known.get(question);
    if (known) return known;
    const answer = this.fetch(question).catch(() => {
      this.#known.delete(question);
      return null;
    });
    this.#known.set(question, answer);
    if (this.#known.size > KEPT) this.#known.delete(/** @type {string} */ (this.#known.keys().next().value));
    return answer;
  }
}

/** Of promises handed over one after another, the newest is heard: an answer that comes after a newer question is not.
 * @template T @param {(answer: T) => void} hear @returns {(promise: Promise<T>) => Promise<void>} */
export function newest(hear) {
  let last = 0;
  return async (promise) => {
    last += 1;
    const mine = last;
    const answer = await promise;
    if (mine === last) hear(answer);
  };
}
