// The tab for files: choose one, and read along while it is transcribed.

import { Actions } from "./actions.js";
import { clock, make } from "./dom.js";
import { label, say, t, unsay } from "./i18n.js";
import { Lines } from "./lines.js";
import { Facts, Notice, SpokenLanguage } from "./parts.js";
import { BrokeOff, Cancelled, transcribe } from "./upload.js";

const MIB = 1024 * 1024;

export class FileTab {
  constructor() {
    this.file = null;
    this.running = null;
    this.segments = [];
    this.transcript = null;
    this.offer = { word_times: false, max_upload_bytes: null };
    this.#build();
    this.#show();
  }

  /** What the service offers: see `About` in routes.py. */
  serve(about) {
    this.offer = about;
    this.spoken.offer(about.languages);
    this.translate.parentElement.hidden = !about.translates;
    say(this.limit, "or_drop", { size: this.#size() });
    this.#show();
  }

  #build() {
    this.spoken = new SpokenLanguage();
    this.notice = new Notice();
    this.facts = new Facts();
    this.lines = new Lines((key, from) => this.#play(key, from));
    this.actions = new Actions(() => this.#result(), this.notice);
    this.input = make("input", { type: "file", id: "asr-input", accept: "audio/*,video/*,.amr,.opus", class: "asr-file-input" });
    this.input.addEventListener("change", () => this.#choose(this.input.files[0]));
    this.limit = make("span", { class: "asr-soft" });
    this.name = make("span", { class: "asr-name" });
    const names = make("span", { class: "asr-drop-text" }, say(make("strong"), "choose"), this.limit, this.name);
    this.drop = make("label", { class: "asr-drop", htmlFor: "asr-input" }, this.input, names);
    this.#takeDrops();
    this.translate = make("input", { type: "checkbox" });
    const translate = make("label", { class: "asr-check", hidden: true }, this.translate, say(make("span"), "translate"));
    this.button = make("button", { type: "button", class: "asr-button asr-primary", onclick: () => this.#pressed() });
    const controls = make("div", { class: "asr-controls" }, this.button, this.spoken.element, translate);
    this.bar = make("progress", { class: "asr-progress", max: 1 });
    this.status = make("span", { class: "asr-soft", role: "status" });
    label(this.bar, "transcribe");
    this.progress = make("div", { class: "asr-running-file", hidden: true }, this.bar, this.status);
    this.place = make("div", { class: "asr-player" });
    this.sheet = make("section", { class: "asr-sheet", hidden: true }, this.lines.element);
    this.elements = [this.drop, controls, this.progress, this.notice.element, this.place, this.sheet, this.facts.element, this.actions.element];
  }

  #takeDrops() {
    const over = (event) => {
      event.preventDefault();
      this.drop.classList.toggle("asr-over", event.type === "dragover");
    };
    for (const type of ["dragover", "dragleave"]) this.drop.addEventListener(type, over);
    this.drop.addEventListener("drop", (event) => {
      over(event);
      if (this.running === null) this.#choose(event.dataTransfer.files[0]);
    });
  }

  #show() {
    say(this.button, this.running === null ? "transcribe" : "cancel");
    this.button.classList.toggle("asr-primary", this.running === null);
    this.button.disabled = this.file === null;
    this.input.disabled = this.running !== null;
    this.spoken.disabled = this.running !== null;
    this.translate.disabled = this.running !== null;
    this.progress.hidden = this.running === null;
    this.sheet.hidden = this.segments.length === 0;
    this.actions.element.hidden = this.segments.length === 0;
    this.actions.enable(this.transcript !== null && this.segments.length > 0);
  }

  #size() {
    return `${Math.round((this.offer.max_upload_bytes ?? 0) / MIB)} MiB`;
  }

  #choose(file) {
    if (file === undefined) return;
    this.#forget();
    this.notice.clear();
    const { max_upload_bytes: most } = this.offer;
    if (most !== null && file.size > most) {
      this.file = null;
      this.notice.say("too_large", { size: this.#size() });
    } else this.file = file;
    this.name.textContent = this.file?.name ?? "";
    this.#showPlayer();
    this.#show();
  }

  #showPlayer() {
    if (this.media) URL.revokeObjectURL(this.media.src);
    this.place.replaceChildren();
    this.media = null;
    if (this.file === null || this.file.size === 0) return;
    const tag = this.file.type.startsWith("video/") ? "video" : "audio";
    this.media = make(tag, { controls: true, preload: "metadata", playsInline: true, src: URL.createObjectURL(this.file) });
    label(this.media, "file");
    this.media.addEventListener("timeupdate", () => this.#follow());
    this.place.append(this.media);
  }

  #forget() {
    this.segments = [];
    this.transcript = null;
    this.lines.clear();
    this.facts.clear();
  }

  async #pressed() {
    if (this.running !== null) {
      this.running.cancel();
      return;
    }
    this.#forget();
    this.notice.clear();
    const fields = {};
    if (this.spoken.value) fields.language = this.spoken.value;
    if (this.offer.word_times) fields.words = "true";
    if (this.translate.checked) fields.task = "translate";
    this.running = transcribe(this.file, fields, {
      onUpload: (share) => this.#uploaded(share),
      onSegment: (segment) => this.#segment(segment),
    });
    this.#uploaded(0);
    this.#show();
    try {
      this.#finished(await this.running.done);
    } catch (error) {
      this.#failed(error);
    }
    this.running = null;
    unsay(this.status);
    this.#show();
  }

  #uploaded(share) {
    if (share < 1) {
      this.bar.value = share;
      say(this.status, "uploading", { percent: Math.floor(100 * share) });
    } else {
      this.bar.removeAttribute("value");
      say(this.status, "transcribing");
    }
  }

  #segment(segment) {
    this.lines.put(this.segments.length, segment);
    this.segments.push(segment);
    say(this.status, "transcribing_until", { time: clock(segment.end) });
    this.#show();
  }

  #finished(transcript) {
    this.transcript = transcript;
    this.facts.show({ language: transcript.language, model: transcript.model, length: clock(transcript.duration_s) });
    if (this.segments.length === 0) this.notice.say("no_speech");
    else if (transcript.warnings.length > 0) this.notice.show(transcript.warnings.join(" "));
  }

  #failed(error) {
    if (error instanceof Cancelled) this.notice.say("cancelled");
    else if (error instanceof BrokeOff) this.notice.say("broke_off");
    else this.notice.show(error.message);
  }

  #play(key, from) {
    this.media.currentTime = from ?? this.segments[key].start;
    this.media.play().catch(() => this.notice.say("not_playable"));
  }

  #follow() {
    const now = this.media.currentTime;
    const key = this.segments.findIndex(({ start, end }) => now >= start && now < end);
    this.lines.mark(key < 0 ? null : key);
  }

  #result() {
    const { type, file, ...whole } = this.transcript;
    const name = this.file.name.replace(/\.[^.]*$/, "") || t("file");
    return { name, text: whole.text, segments: this.transcript.segments, document: whole };
  }
}
