// What both tabs have: a place for messages, and the choice of the spoken language.

import { make } from "./dom.js";
import { languageName, onLanguage, say, t, unsay } from "./i18n.js";

/** Where a tab says what is wrong, with a button at times. Empty: nothing is. */
export class Notice {
  constructor() {
    this.text = make("span");
    this.button = make("button", { type: "button", class: "asr-button", hidden: true });
    this.element = make("div", { class: "asr-notice", role: "alert", hidden: true }, this.text, this.button);
    this.button.addEventListener("click", () => this.pressed?.());
  }

  /** Show words that are not the page's own. */
  show(words) {
    unsay(this.text);
    this.text.textContent = words;
    this.#offer(null, null);
  }

  /** Show a sentence of the page, and a button if it has a name and something to do. */
  say(key, values = {}, buttonKey = null, pressed = null) {
    say(this.text, key, values);
    this.#offer(buttonKey, pressed);
  }

  /** Show words of the service with a button. */
  offer(words, buttonKey, pressed) {
    this.show(words);
    this.#offer(buttonKey, pressed);
  }

  clear() {
    unsay(this.text);
    this.element.hidden = true;
  }

  #offer(buttonKey, pressed) {
    this.pressed = pressed;
    this.button.hidden = buttonKey === null;
    if (buttonKey !== null) say(this.button, buttonKey);
    this.element.hidden = false;
  }
}

/** A field with the languages of the model, the detection first. */
export class SpokenLanguage {
  constructor() {
    this.select = make("select", { class: "asr-select" });
    this.element = make("label", { class: "asr-field" }, say(make("span", { class: "asr-soft" }), "language"), this.select);
    this.codes = [];
    onLanguage(() => this.#fill());
  }

  /** The code, or "" to have it detected. */
  get value() {
    return this.select.value;
  }

  set disabled(disabled) {
    this.locked = disabled;
    this.select.disabled = disabled || this.codes.length === 0;
  }

  /** `codes`: what the model takes; none where it finds the language by itself. */
  offer(codes) {
    this.codes = codes;
    this.disabled = this.locked ?? false;
    this.#fill();
  }

  #fill() {
    const chosen = this.select.value;
    const named = this.codes.map((code) => [code, languageName(code)]);
    named.sort(([, one], [, other]) => one.localeCompare(other));
    const options = [["", t("detect")], ...named].map(([value, name]) => make("option", { value }, name));
    this.select.replaceChildren(...options);
    this.select.value = this.codes.includes(chosen) ? chosen : "";
  }
}

/** Facts about a transcript: language, model, length. */
export class Facts {
  constructor() {
    this.element = make("p", { class: "asr-facts asr-soft" });
    onLanguage(() => this.#write());
  }

  /** `language`: a code or null; `model`: a name; `duration_s`: seconds or null. */
  show(facts) {
    this.facts = facts;
    this.#write();
  }

  clear() {
    this.show(undefined);
  }

  #write() {
    const { language = null, model = null, length = null } = this.facts ?? {};
    const parts = [];
    if (language !== null) parts.push(t("spoken_language", { language: languageName(language) }));
    if (model !== null) parts.push(t("by_model", { model }));
    if (length !== null) parts.push(t("lasts", { time: length }));
    this.element.replaceChildren(...parts.map((part) => make("span", {}, part)));
  }
}
