// What can be done with a transcript: copy its text, download it as txt, srt, vtt or json.

import { make } from "./dom.js";
import { label, say } from "./i18n.js";
import { subtitles } from "./service.js";

const TYPES = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json" };
const COPIED_MS = 2000;

export class Actions {
  /**
   * `transcript()` gives `{name, text, segments, document}`: the name for files, the text, its segments, and what goes into
   * the JSON file. `complain(sentence)` and `complain.say(key)` show what went wrong.
   */
  constructor(transcript, notice) {
    this.transcript = transcript;
    this.notice = notice;
    this.copyButton = say(make("button", { type: "button", class: "asr-button", onclick: () => this.#copy() }), "copy");
    const group = make("span", { class: "asr-downloads", role: "group" }, say(make("span", { class: "asr-soft" }), "download"));
    label(group, "download");
    this.buttons = [this.copyButton];
    for (const kind of Object.keys(TYPES)) {
      const button = make("button", { type: "button", class: "asr-button", onclick: () => this.#download(kind) }, kind.toUpperCase());
      button.dataset.format = kind;
      this.buttons.push(button);
      group.append(button);
    }
    this.element = make("div", { class: "asr-actions" }, this.copyButton, group);
    this.enable(false);
  }

  enable(possible) {
    for (const button of this.buttons) button.disabled = !possible;
  }

  async #copy() {
    try {
      await write(this.transcript().text);
    } catch {
      this.notice.say("copy_failed");
      return;
    }
    say(this.copyButton, "copied");
    setTimeout(() => say(this.copyButton, "copy"), COPIED_MS);
  }

  async #download(kind) {
    const { name, text, segments, document: whole } = this.transcript();
    try {
      const content = {
        txt: () => `${text}\n`,
        json: () => `${JSON.stringify(whole, null, 2)}\n`,
        srt: () => subtitles("srt", segments),
        vtt: () => subtitles("vtt", segments),
      };
      save(`${name}.${kind}`, await content[kind](), TYPES[kind]);
    } catch (error) {
      this.notice.show(error.message);
    }
  }
}

async function write(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Pages without HTTPS have no clipboard, but may still copy what is selected.
  const field = make("textarea", { value: text, class: "asr-hidden", readOnly: true });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("not copied");
}

function save(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: url, download: name }).click();
  // The browser has its own hold of it by then.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
