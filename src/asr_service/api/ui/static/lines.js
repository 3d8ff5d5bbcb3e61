// A transcript on screen: a line for each stretch of speech, with its times. A click on a line plays it.

import { fineClock, make } from "./dom.js";
import { label } from "./i18n.js";

export class Lines {
  /** `onPlay` gets the key of the line that somebody wants to hear, and from which second on, if not from its start. */
  constructor(onPlay) {
    this.onPlay = onPlay;
    this.lines = new Map();
    this.element = make("ol", { class: "asr-lines", "aria-live": "polite", "aria-relevant": "additions text" });
    label(this.element, "transcript");
  }

  /**
   * Write a line, or write it anew. `text` will not change any more, `unsettled` may; without an `end` it is still being
   * spoken and cannot be played. `words`: when each of them is spoken, if that is known. `failed`: it has no text, but a
   * sentence on why.
   */
  put(key, { start, end = null, text, unsettled = "", words = null, failed = false }) {
    const line = this.lines.get(key) ?? this.#add(key);
    line.item.classList.toggle("asr-open", end === null);
    line.item.classList.toggle("asr-failed", failed);
    line.time.disabled = end === null;
    line.time.textContent = fineClock(start);
    if (end !== null) {
      line.end.textContent = ` – ${fineClock(end)}`;
      label(line.time, "play", { start: fineClock(start), end: fineClock(end) });
    }
    if (words !== null) line.settled.replaceChildren(...timed(text, words));
    else if (line.settled.textContent !== text) line.settled.textContent = text;
    line.unsettled.textContent = unsettled;
    if (this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 160) {
      this.element.scrollTop = this.element.scrollHeight;
    }
  }

  remove(key) {
    this.lines.get(key)?.item.remove();
    this.lines.delete(key);
  }

  clear() {
    this.element.replaceChildren();
    this.lines.clear();
  }

  /** Show which line is heard; null for none. */
  mark(key) {
    for (const [each, { item }] of this.lines) item.classList.toggle("asr-playing", each === key);
  }

  #add(key) {
    const time = make("button", { type: "button", class: "asr-time", onclick: () => this.onPlay(key, null) });
    const end = make("span", { class: "asr-end", "aria-hidden": "true" });
    const settled = make("span", { class: "asr-settled" });
    // Not read out: it may change before it is heard.
    const unsettled = make("span", { class: "asr-unsettled", "aria-hidden": "true" });
    const text = make("p", { class: "asr-text" }, settled, unsettled);
    text.addEventListener("click", ({ target }) => {
      // Whoever selects text does not want to hear it.
      if (time.disabled || !getSelection().isCollapsed) return;
      this.onPlay(key, target.dataset.start === undefined ? null : Number(target.dataset.start));
    });
    const item = make("li", {}, make("span", { class: "asr-times" }, time, end), text);
    this.element.append(item);
    const line = { item, time, end, settled, unsettled };
    this.lines.set(key, line);
    return line;
  }
}

/** `text` with an element around each word that is found in it. */
function timed(text, words) {
  const parts = [];
  let done = 0;
  for (const { word, start } of words) {
    const bare = word.trim();
    const at = bare === "" ? -1 : text.indexOf(bare, done);
    if (at < 0) continue;
    const element = make("span", { class: "asr-word" }, bare);
    element.dataset.start = start;
    parts.push(text.slice(done, at), element);
    done = at + bare.length;
  }
  return [...parts, text.slice(done)];
}
