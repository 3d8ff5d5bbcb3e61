// The language of the interface: chosen by the browser or by hand, remembered, and changed in place.
//
// A node that was given a sentence with `say` or `label` follows when the language changes.

import { STRINGS } from "./strings.js";

const STORED = "asr-language";
export const LANGUAGES = { en: { tag: "en", name: "English" }, zh: { tag: "zh-Hans", name: "中文" } };
const listeners = new Set();
let current = remembered() ?? preferred();

function remembered() {
  try {
    const name = localStorage.getItem(STORED);
    return name in LANGUAGES ? name : null;
  } catch {
    return null; // Storage may be forbidden to pages; then nothing is remembered.
  }
}

function preferred() {
  const known = navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]);
  return known.find((name) => name in LANGUAGES) ?? "en";
}

/** "en" or "zh". */
export function language() {
  return current;
}

/** Show everything in another language, now and at the next visit. */
export function choose(name) {
  current = name;
  try {
    localStorage.setItem(STORED, name);
  } catch (error) {
    console.debug("the choice is not remembered", error);
  }
  // For the login page, which has no script.
  document.cookie = `asr_language=${name}; path=${new URL(document.baseURI).pathname}; samesite=strict; max-age=31536000`;
  refresh();
}

/** Call `listener` now, and whenever the language has changed. */
export function onLanguage(listener) {
  listeners.add(listener);
  listener();
}

/** A sentence in the current language. */
export function t(key, values = {}) {
  return STRINGS[current][key].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Make a sentence the text of `node`. */
export function say(node, key, values = {}) {
  node.dataset.say = key;
  node.dataset.sayValues = JSON.stringify(values);
  node.textContent = t(key, values);
  return node;
}

/** Make a sentence the name of `node` for those who do not see it. */
export function label(node, key, values = {}) {
  node.dataset.label = key;
  node.dataset.labelValues = JSON.stringify(values);
  node.setAttribute("aria-label", t(key, values));
  return node;
}

/** Take the sentence away again. */
export function unsay(node) {
  delete node.dataset.say;
  node.textContent = "";
}

/** The name of a spoken language, such as "German" for "de". */
export function languageName(code) {
  try {
    return new Intl.DisplayNames([LANGUAGES[current].tag], { type: "language" }).of(code === "jw" ? "jv" : code) ?? code;
  } catch {
    return code;
  }
}

function refresh() {
  nameDocument();
  for (const node of document.querySelectorAll("[data-say]")) say(node, node.dataset.say, JSON.parse(node.dataset.sayValues));
  for (const node of document.querySelectorAll("[data-label]")) {
    label(node, node.dataset.label, JSON.parse(node.dataset.labelValues));
  }
  for (const listener of listeners) listener();
}

function nameDocument() {
  const { tag } = LANGUAGES[current];
  if (document.documentElement.lang !== tag) document.documentElement.lang = tag;
}

nameDocument();
// The frame writes the browser's language there, which may be another one.
new MutationObserver(nameDocument).observe(document.documentElement, { attributeFilter: ["lang"] });
